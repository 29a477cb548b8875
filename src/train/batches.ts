/** @file Episodes as packed training batches. */
import type { Episode } from "../data/episode.js";
import { dropSurplusLabels, packLayouts, type LabelBudget } from "./packing.js";
import {
  buildLayout,
  IGNORED_LABEL,
  placeLayouts,
  type PaddedBatch,
  type ParallelLayout,
  type ParallelMode,
} from "./parallel-layout.js";

/** Which tokens the loss covers. */
export type LabelScope = "answer" | "all";

/** Shape of the batches. */
export interface BatchOptions {
  mode: ParallelMode;
  /** Rows of a batch. */
  rows: number;
  /** Tokens of a row. */
  rowLength: number;
  /**
   * `"answer"` labels the target only, as the reference does. `"all"` also labels the text of every later step, which is
   * predicted from the memory of the steps before it: many more labels from the same forward pass.
   */
  labels: LabelScope;
  /** Default: no limit. */
  labelBudget?: LabelBudget;
}

/** The layout of an episode: its steps as context, its question and answer as input, the answer as labels. */
export function layoutEpisode(episode: Episode, mode: ParallelMode, labels: LabelScope): ParallelLayout {
  const layout = buildLayout(
    {
      chunks: episode.steps,
      input: [...episode.input, ...episode.target],
      labels: { start: episode.input.length },
    },
    mode,
  );
  if (labels === "all") labelText(layout);
  // The token before it in a row belongs to another sample.
  layout.labels[0] = IGNORED_LABEL;
  return layout;
}

/** Labels all text that has memory or text before it; the first token of a block has nothing to be predicted from. */
function labelText({ segments, labels, inputIds }: ParallelLayout): void {
  for (const { kind, block, start, end } of segments) {
    if (kind !== "text" || (block === 0 && segments.length > 1)) continue;
    for (let token = start + 1; token < end; token++) {
      if (labels[token] === IGNORED_LABEL) labels[token] = inputIds[token] as number;
    }
  }
}

/** A batch that is decided but not yet written out, by default as masks. */
export interface PlannedBatch<Batch = PaddedBatch> {
  /** Makes the batch. */
  build: () => Batch;
}

/**
 * Batches from a stream of episodes. Episodes that do not fit into a row even alone are left out; those that found no
 * place in a batch open the next one. The last batches of a finite stream may be partly empty. Batches are cheap until
 * they are built, so a resumed run can skip those it had.
 */
export async function* packedBatches(
  episodes: AsyncIterable<Episode>,
  options: BatchOptions,
): AsyncGenerator<PlannedBatch, void, void> {
  const { mode, rows, rowLength, labels, labelBudget } = options;
  const mostLabels = labelBudget?.surplus === "close" ? labelBudget.most : Infinity;
  let waiting: ParallelLayout[] = [];
  let waitingTokens = 0;
  let index = 0;
  const pack = (): PlannedBatch => {
    const { placed, left } = packLayouts(waiting, rows, rowLength, mostLabels);
    waiting = left;
    waitingTokens = left.reduce((sum, { seq }) => sum + seq, 0);
    const batchIndex = index++;
    return {
      build: () => {
        const batch = placeLayouts(placed, rowLength);
        return labelBudget === undefined ? batch : dropSurplusLabels(batch, labelBudget, batchIndex);
      },
    };
  };
  // A little more than fits, so that first fit leaves few holes.
  const enough = (): boolean => waitingTokens >= 1.1 * rows * rowLength;
  for await (const episode of episodes) {
    const layout = layoutEpisode(episode, mode, labels);
    if (layout.seq > rowLength) continue;
    waiting.push(layout);
    waitingTokens += layout.seq;
    while (enough()) yield pack();
  }
  // The end of a finite stream, such as held-out data: batches that are not full.
  while (waiting.length > 0) yield pack();
}

/** Dense batches of a stream of episodes, from batch `skip` on. */
export async function* builtBatches(
  episodes: AsyncIterable<Episode>,
  options: BatchOptions,
  skip: number,
): AsyncGenerator<PaddedBatch, void, void> {
  let index = 0;
  for await (const planned of packedBatches(episodes, options)) {
    if (index++ >= skip) yield planned.build();
  }
}
