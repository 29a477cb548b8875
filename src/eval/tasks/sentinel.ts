/**
 * @file Sentinel tokens against what they are compared with: perplexity of blocks of text by the share of the cache that
 * is taken away. Ren et al. 2023, arXiv:2310.08152. One parallel pass per block and share, as in training; it equals
 * reading token by token under the memory method.
 */
import { PrecisError } from "../../errors.js";
import type { LanguageModel } from "../../runtime/model.js";
import type { MaskedText } from "../../runtime/protocol.js";
import { SPAN_PLACEMENTS, type SpanPlacement } from "../../sentinel/recent-rules.js";
import { LONGEST_SPAN } from "../../sentinel/sentinel-tokens.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { writeAttend } from "../../train/attention-mask.js";
import { IGNORED_LABEL, type ParallelLayout, type Segment } from "../../train/parallel-layout.js";
import { layoutText, type TextMode } from "../../train/text-layout.js";
import { sizeOf, type Observation } from "../case.js";
import type { Entry, Found } from "../entry.js";
import { journaled } from "../journal.js";
import { ascending, countBy, nothingToDo, requireData, type EvaluationOptions } from "../options.js";
import { spread } from "../pool.js";
import { readBlocks, type ProseBlock } from "./text-blocks.js";

/** Shares in percent unless told otherwise. */
export const DEFAULT_PERCENTS: readonly number[] = [10, 20, 30, 40, 50, 60, 70, 80, 90];

/** Tokens of a block: as in training, the sentinels not counted. */
export const BLOCK_TOKENS = 256;

/** Blocks of a source unless told otherwise. */
const DEFAULT_BLOCKS = 64;

/** Methods that text can be laid out for, and what training calls them. */
const LAYOUTS: Readonly<Record<string, Exclude<TextMode["method"], "streaming">>> = {
  sentinel: "sentinel",
  local: "local",
  scattered: "scattered",
  full: "text",
};

/** How a method reads blocks. */
export interface BlockReading {
  /** Name of the memory method. */
  method: string;
  /** Percent of the cache to do without. */
  percent: number;
  /** Most words of a span (sentinel). */
  longest: number;
  /** Where spans are (sentinel); default random. */
  placement?: SpanPlacement;
  vocabSize: number;
}

/**
 * The layout of a block. Spans, and tokens kept at random, depend on the block and the share alone. All tokens but the
 * first are predicted, whatever the method.
 */
export function layoutBlock(
  block: ProseBlock,
  { method, percent, longest, placement, vocabSize }: BlockReading,
): ParallelLayout {
  const ids = { vocabSize, padId: 0, bosId: -1, blockTokens: Infinity };
  const ratios = [percent / 100, percent / 100] as const;
  const text = { key: block.id, ids: block.ids, wordStarts: block.wordStarts };
  const layout = LAYOUTS[method] as Exclude<TextMode["method"], "streaming">;
  if (layout === "sentinel") return layoutText(text, { ...ids, method: layout, ratios, longest, placement });
  return layoutText(text, layout === "text" ? { ...ids, method: layout } : { ...ids, method: layout, ratios });
}

/** A layout as the engine takes it. */
export function maskedText(layout: ParallelLayout): MaskedText {
  const { seq, inputIds, positionIds, predictors } = layout;
  const attend = new Uint8Array(seq * seq);
  writeAttend(layout, attend, seq, 0);
  const labelled = [...layout.labels.entries()].filter(([, id]) => id !== IGNORED_LABEL);
  return {
    ids: [...inputIds],
    positions: [...positionIds],
    attend,
    labels: labelled.map(([, id]) => id),
    predictors: labelled.map(([token]) => predictors?.[token] ?? token - 1),
  };
}

/**
 * KV positions that a layout needs: what text after it would see (but for a span that is still open), the most that are
 * held at once on the way, and how many a token of the text sees on average, itself included.
 */
export function slotsOf(
  layout: ParallelLayout,
  { attend }: MaskedText,
): { slots: number; peakSlots: number; seenSlots: number } {
  const { seq, mask, segments } = layout;
  const next: Segment = { kind: "text", block: -1, start: seq, end: seq + 1 };
  const hidden = new Set(mask.hiddenColumns);
  const lasting = new Set(mask.lastingColumns);
  const first = mask.firstColumn?.(seq) ?? 0;
  let slots = 0;
  for (const column of segments.filter((segment) => mask.sees(next, segment))) {
    for (let token = column.start; token < column.end; token++) {
      if ((token >= first || lasting.has(token)) && !hidden.has(token)) slots++;
    }
  }
  // A token is held until the last one that sees it has been read.
  const ends = new Int32Array(seq + 1);
  for (let token = 0; token < seq; token++) {
    let last = token;
    for (let row = token; row < seq; row++) if (attend[row * seq + token] === 1) last = row;
    ends[last + 1] = (ends[last + 1] as number) + 1;
  }
  let [held, peakSlots] = [0, slots];
  for (let token = 0; token < seq; token++) {
    held += 1 - (ends[token] as number);
    peakSlots = Math.max(peakSlots, held);
  }
  return { slots, peakSlots, seenSlots: seenSlots(layout, attend) };
}

function seenSlots({ seq, segments }: ParallelLayout, attend: Uint8Array): number {
  let [seen, tokens] = [0, 0];
  for (const { kind, start, end } of segments) {
    if (kind !== "text" && kind !== "span") continue;
    tokens += end - start;
    for (let cell = start * seq; cell < end * seq; cell++) seen += attend[cell] as number;
  }
  return seen / Math.max(1, tokens);
}

/** Perplexity by share for each method. Gaps are measured from local attention. */
export async function evaluateSentinel(
  options: EvaluationOptions,
  entries: readonly Entry[],
  tokenizer: Tokenizer,
): Promise<Found> {
  const { model, helpers = [], limit = DEFAULT_BLOCKS, seed = 0, only, journal, signal } = options;
  const percents = checkPercents(options.steps ?? DEFAULT_PERCENTS);
  refuseOthers(entries);
  const dataDir = requireData(options);
  const blocks = await readBlocks(tokenizer, { dataDir, tokens: BLOCK_TOKENS, limit, seed, only, signal });
  if (blocks.length === 0) throw nothingToDo(options, "stream");
  const jobs = entries.flatMap((entry, methodIndex) =>
    blocks.map((block, index) => ({ entry, methodIndex, block, index })),
  );
  const found = await spread(
    [model, ...helpers],
    jobs,
    async (worker, { entry, methodIndex, block, index }, either): Promise<Observation[]> => {
      options.onProgress?.({ method: entry.spec.label, methodIndex, done: index, total: blocks.length });
      const key = JSON.stringify([entry.spec.label, block.id]);
      const work = (): Promise<Observation[]> => readBlock(worker, entry, block, percents, either);
      const { value, seconds } = await journaled(journal, key, work);
      entry.result.seconds += seconds;
      return value;
    },
    signal,
  );
  const observed = entries.map(({ result }, index) => ({
    result,
    observations: found.slice(index * blocks.length, (index + 1) * blocks.length).flat(),
  }));
  return { primary: "perplexity", sources: countBy(blocks.map(({ source }) => source)), observed, floor: "local" };
}

/** One block under one method, at every share. */
async function readBlock(
  model: LanguageModel,
  { spec, result }: Entry,
  block: ProseBlock,
  percents: readonly number[],
  signal: AbortSignal,
): Promise<Observation[]> {
  const { vocabSize, bytesPerSlot } = model.info;
  const longest = Number(result.options["span"] ?? LONGEST_SPAN);
  const { method } = result;
  const placement = SPAN_PLACEMENTS.find((name) => name === result.options["policy"]) ?? "random";
  // What keeps everything reads the same at every share.
  const read = method === "full" ? percents.slice(0, 1) : percents;
  const layouts = read.map((percent) => layoutBlock(block, { method, percent, longest, placement, vocabSize }));
  const texts = layouts.map(maskedText);
  const nll = await model.scoreMasked(texts, { adapter: spec.memory.adapter, signal });
  return percents.map((step, index) => {
    const at = Math.min(index, read.length - 1);
    const values = nll[at] as Float32Array;
    const size = slotsOf(layouts[at] as ParallelLayout, texts[at] as MaskedText);
    return {
      step,
      stratum: block.source,
      cluster: block.id,
      memory: sizeOf({ ...size, contextTokens: block.ids.length }, bytesPerSlot),
      nll: values.reduce((sum, value) => sum + value, 0),
      tokens: values.length,
    };
  });
}

/** Shares in percent, ascending. */
export function checkPercents(steps: readonly number[]): number[] {
  const percents = ascending(steps);
  const most = percents.at(-1) as number;
  if (most < 100) return percents;
  throw new PrecisError("OPTION_INVALID", `${most}% of the cache cannot be taken away.`, {
    value: most,
    nextStep: "Give steps in percent, from 0 to 99, such as 10,50,90.",
  });
}

function refuseOthers(entries: readonly Entry[]): void {
  const other = entries.find(({ result }) => !Object.hasOwn(LAYOUTS, result.method));
  if (other === undefined) return;
  throw new PrecisError("OPTION_INVALID", `Blocks cannot be read with the method ${other.result.method}.`, {
    value: other.spec.label,
    nextStep: `Use ${Object.keys(LAYOUTS).join(", ")}, with or without an adapter.`,
  });
}
