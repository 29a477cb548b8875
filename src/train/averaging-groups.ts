/**
 * @file The averages of a batch as a few numbers per token. A token that is averaged reads one group of tokens before it;
 * the weight of token j in the average of token i is
 *
 *     rowWeight_i · columnWeight_j · exp(−rate_i · (step_i − step_j))   where reads_i = offers_j and j ≤ i,
 *
 * which covers the running mean (rowWeight = 1/t), the moving average of weight a (rate = −ln(1 − a), columnWeight = a but
 * for the first step) and pooling (rowWeight = 1/length).
 */
import { poolSizes } from "./pooling.js";
import type { ParallelLayout, Segment } from "./parallel-layout.js";

/** The parts of {@link AveragingGroups}, in the order in which graphs take them. */
export const AVERAGING_PARTS = ["reads", "offers", "rowWeights", "columnWeights", "steps", "rates"] as const;

/** All [batch · seq]. Groups are numbered within a row. */
export type AveragingGroups = Record<(typeof AVERAGING_PARTS)[number], Float32Array>;

/** `reads` of a token that keeps its own keys and values. */
export const READS_NOTHING = -1;

/** `offers` of a token that no average takes in. */
const OFFERS_NOTHING = -2;

/** exp(−200) is 0 in float32: the rate of a moving average that forgets at once. */
const HIGHEST_RATE = 200;

/** Groups of a batch in which nothing is averaged. */
export function noAveraging(tokens: number): AveragingGroups {
  const filled = (value: number): Float32Array => new Float32Array(tokens).fill(value);
  return {
    reads: filled(READS_NOTHING),
    offers: filled(OFFERS_NOTHING),
    rowWeights: filled(1),
    columnWeights: filled(1),
    steps: filled(0),
    rates: filled(0),
  };
}

/**
 * Writes the groups of one layout.
 * @param row first token of the batch's row that the layout is in
 * @param start column of the layout's first token
 */
export function writeGroups(layout: ParallelLayout, groups: AveragingGroups, row: number, start: number): void {
  if (layout.pools === true) writePooling(layout, groups, row, start);
  else writeMerging(layout, groups, row, start);
}

/** SUM_k reads the tokens of the k-th run of its step; sinks are in none. */
function writePooling({ segments, sinkColumns }: ParallelLayout, groups: AveragingGroups, row: number, start: number) {
  let text: Segment | undefined;
  for (const segment of segments) {
    if (segment.kind === "text") text = segment;
    if (segment.kind !== "sum" || text === undefined) continue;
    const { start: from, end } = text;
    const columns = Array.from({ length: end - from }, (_, i) => start + from + i);
    const pooled = columns.filter((column) => !sinkColumns.includes(column - start));
    let next = 0;
    poolSizes(pooled.length, segment.end - segment.start).forEach((length, k) => {
      const run = pooled.slice(next, next + length);
      const group = run[0] ?? READS_NOTHING;
      const sum = row + start + segment.start + k;
      groups.reads[sum] = group;
      groups.rowWeights[sum] = 1 / length;
      for (const column of run) groups.offers[row + column] = group;
      next += length;
    });
  }
}

/** SUM_k reads the COMP_k of every step so far. */
function writeMerging({ segments, decay }: ParallelLayout, groups: AveragingGroups, row: number, start: number): void {
  const rate = decay === undefined ? 0 : Math.min(HIGHEST_RATE, -Math.log(1 - decay));
  let first: number | undefined;
  let step = 0;
  for (const { kind, start: from, end } of segments) {
    if (kind === "comp") {
      step++;
      first ??= start + from;
    }
    if ((kind !== "comp" && kind !== "sum") || first === undefined) continue;
    for (let k = 0; k < end - from; k++) {
      const token = row + start + from + k;
      groups.steps[token] = step;
      groups[kind === "comp" ? "offers" : "reads"][token] = first + k;
      groups.rates[token] = rate;
      if (kind === "sum") groups.rowWeights[token] = decay === undefined ? 1 / step : 1;
      else groups.columnWeights[token] = decay === undefined || step === 1 ? 1 : decay;
    }
  }
}

/** The weights [batch, seq, seq], zero but in the rows of tokens that are averaged. */
export function denseAveraging(groups: AveragingGroups, seq: number): Float32Array {
  const { reads, offers, rowWeights, columnWeights, steps, rates } = groups;
  const dense = new Float32Array(reads.length * seq);
  reads.forEach((group, i) => {
    if (group === READS_NOTHING) return;
    const row = i - (i % seq);
    for (let j = row; j <= i; j++) {
      if (offers[j] !== group) continue;
      const lag = (steps[i] as number) - (steps[j] as number);
      const weight = (rowWeights[i] as number) * (columnWeights[j] as number) * Math.exp(-(rates[i] as number) * lag);
      dense[i * seq + j - row] = weight;
    }
  });
  return dense;
}
