/** @file Which samples go into which rows of a batch, and how many of their labels it keeps. */
import { SeededRandom } from "../data/random.js";
import { PrecisError } from "../errors.js";
import type { PaddedBatch, PlacedLayout } from "./padded-batch.js";
import { IGNORED_LABEL, type ParallelLayout } from "./parallel-layout.js";

/** The most labels of a batch, since a training graph computes logits for a fixed number of rows. */
export interface LabelBudget {
  most: number;
  /**
   * What happens to labels beyond it: `"close"` leaves samples to the next batch, so that each label counts once;
   * `"drop"` fills the rows and draws which labels to keep, which is for labels so many that a part of them will do.
   */
  surplus: "close" | "drop";
  /** Seed of the draws. */
  seed: number;
}

/** Number of labels of a layout. */
export function countLabels({ labels }: Pick<ParallelLayout, "labels">): number {
  return labels.reduce((count, label) => count + (label === IGNORED_LABEL ? 0 : 1), 0);
}

/**
 * Assigns layouts to rows of `seq` tokens, several to a row where they fit, first fit in the order given.
 * @param rows number of rows to fill
 * @param mostLabels labels of all rows; a layout with more than that gets a batch of its own
 * @returns the rows, and the layouts that found no place
 * @throws PrecisError INPUT_INVALID if a layout is longer than a row
 */
export function packLayouts(
  layouts: readonly ParallelLayout[],
  rows: number,
  seq: number,
  mostLabels: number = Infinity,
): { placed: PlacedLayout[][]; left: ParallelLayout[] } {
  const placed: PlacedLayout[][] = Array.from({ length: rows }, () => []);
  const used = Array.from({ length: rows }, () => 0);
  const left: ParallelLayout[] = [];
  let labelled = 0;
  for (const layout of layouts) {
    if (layout.seq > seq) {
      throw new PrecisError("INPUT_INVALID", `A layout of ${layout.seq} tokens exceeds a row of ${seq}.`);
    }
    const labels = countLabels(layout);
    const row = used.findIndex((length) => length + layout.seq <= seq);
    if (row < 0 || (labelled > 0 && labelled + labels > mostLabels)) {
      left.push(layout);
      continue;
    }
    labelled += labels;
    placed[row]?.push({ layout, start: used[row] as number });
    used[row] = (used[row] as number) + layout.seq;
  }
  return { placed, left };
}

/**
 * The batch with no more than `most` labels, all of which have the same chance to be kept.
 * @param batchIndex number of the batch in its stream, so that a resumed run draws the same labels
 */
export function dropSurplusLabels(batch: PaddedBatch, { most, seed }: LabelBudget, batchIndex: number): PaddedBatch {
  const labelled: number[] = [];
  batch.labels.forEach((label, token) => {
    if (label !== IGNORED_LABEL) labelled.push(token);
  });
  if (labelled.length <= most) return batch;
  const labels = Int32Array.from(batch.labels).fill(IGNORED_LABEL);
  for (const token of new SeededRandom(seed, "labels", batchIndex).sample(labelled, most)) {
    labels[token] = batch.labels[token] as number;
  }
  return { ...batch, labels };
}

/**
 * A budget that batches of samples like these rarely reach: their mean number of labels and two standard deviations,
 * rounded up to a multiple of 64, and at least as many as the sample with the most labels has.
 * @param layouts a few hundred samples, as they will be trained on
 */
export function estimateLabelBudget(layouts: readonly ParallelLayout[], rows: number, seq: number): number {
  const fitting = layouts.filter((layout) => layout.seq <= seq);
  const capacity = rows * seq;
  if (fitting.length === 0) return capacity;
  const counts = fitting.map(countLabels);
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const labels = mean(counts);
  const deviation = Math.sqrt(mean(counts.map((count) => (count - labels) ** 2)));
  const samples = capacity / mean(fitting.map((layout) => layout.seq));
  const expected = samples * labels + 2 * Math.sqrt(samples) * deviation;
  return Math.min(capacity, 64 * Math.ceil(Math.max(expected, ...counts) / 64));
}
