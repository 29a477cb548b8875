/** @file Episodes as batches of segments. */
import type { Episode } from "../data/episode.js";
import { SeededRandom } from "../data/random.js";
import { layoutEpisode, type LabelScope, type PlannedBatch } from "./batches.js";
import { IGNORED_LABEL } from "./parallel-layout.js";
import { segmentSamples, type SegmentedBatch, type SegmentShape, type SegmentText } from "./segments.js";

/** Shape of the batches. */
export interface SegmentBatchOptions {
  shape: SegmentShape;
  /** See `BatchOptions.labels`. */
  labels: LabelScope;
  /** Seed of the order of batches. */
  seed: number;
}

/** Batches that are sorted by number of steps together, so that short samples seldom wait for long ones. */
const BATCHES_OF_WINDOW = 8;

/** An episode as segments: its steps, then its input and target. Labels are those of any other training. */
export function segmentEpisode(episode: Episode, { shape, labels }: SegmentBatchOptions): SegmentText[] {
  const { vocabSize, padId } = shape;
  const layout = layoutEpisode(episode, { method: "full", vocabSize, padId, bosId: -1 }, labels);
  return layout.segments.map(({ start, end }, index) => {
    const own = layout.labels.slice(start, end);
    // A segment's first token has summaries before it, but no text to be predicted from.
    if (index > 0) own.fill(IGNORED_LABEL, 0, 1);
    return { ids: layout.inputIds.slice(start, end), labels: own };
  });
}

/**
 * Batches from a stream of episodes, one episode to a row. Those with a segment longer than the shape allows are left
 * out. The last batches of a finite stream may have empty rows.
 */
export async function* segmentedBatches(
  episodes: AsyncIterable<Episode>,
  options: SegmentBatchOptions,
): AsyncGenerator<PlannedBatch<SegmentedBatch>, void, void> {
  const { shape, seed } = options;
  let window: SegmentText[][] = [];
  let index = 0;
  const plan = (): PlannedBatch<SegmentedBatch>[] => {
    const sorted = window.toSorted((a, b) => a.length - b.length);
    window = [];
    const batches = Array.from({ length: Math.ceil(sorted.length / shape.rows) }, (_, i) => {
      const samples = sorted.slice(i * shape.rows, (i + 1) * shape.rows);
      return { build: () => segmentSamples(samples, shape) };
    });
    return new SeededRandom(seed, "segments", index++).shuffle(batches);
  };
  for await (const episode of episodes) {
    const segments = segmentEpisode(episode, options);
    const fits = segments.every(({ ids }) => ids.length <= shape.segmentLength);
    if (!fits || segments.length - 1 > shape.maxSteps) continue;
    window.push(segments);
    if (window.length === BATCHES_OF_WINDOW * shape.rows) yield* plan();
  }
  yield* plan();
}
