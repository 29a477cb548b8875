/** @file Episodes as packed training batches. */
import type { Episode } from "../data/episode.js";
import { dropSurplusLabels, packLayouts, type LabelBudget } from "./packing.js";
import { placeLayouts } from "./padded-batch.js";
import { buildLayout, IGNORED_LABEL, type ParallelLayout } from "./parallel-layout.js";
import type { ParallelMode } from "./parallel-mode.js";
import { placeTeacher } from "./teacher-batch.js";
import { isTextMode, layoutText, type TextMode } from "./text-layout.js";
import type { DistilledBatch } from "./training-batch.js";

/** How samples are laid out. */
export type LayoutMode = ParallelMode | TextMode;

/** Which tokens the loss covers; see {@link BatchOptions.labels}. */
export const LABEL_SCOPES = ["answer", "answers", "all"] as const;

/** See {@link LABEL_SCOPES}. */
export type LabelScope = (typeof LABEL_SCOPES)[number];

/** Shape of the batches. */
export interface BatchOptions {
  mode: LayoutMode;
  /** Rows of a batch. */
  rows: number;
  /** Tokens of a row. */
  rowLength: number;
  /**
   * `"answer"` labels the target only, as the reference does. The others also label what later steps say, which is
   * predicted from the memory of the steps before them: many more labels from the same forward pass. `"answers"` takes
   * only the answers of steps that are questions with answers (demonstrations, profile entries), `"all"` their whole text.
   */
  labels: LabelScope;
  /** Default: no limit. */
  labelBudget?: LabelBudget;
  /** Also what a teacher with the full context reads. Default false. */
  teacher?: boolean;
}

/**
 * The layout of an episode: its steps as context, its question and answer as input, the answer as labels. In the modes
 * for plain text all of it is one text, and labelled but for its first token.
 */
export function layoutEpisode(episode: Episode, mode: LayoutMode, labels: LabelScope): ParallelLayout {
  if (isTextMode(mode)) {
    const ids = [...episode.steps.flat(), ...episode.input, ...episode.target];
    return layoutText({ key: episode.id, ids, wordStarts: episode.wordStarts ?? ids.map((_, index) => index) }, mode);
  }
  const layout = buildLayout(
    {
      chunks: episode.steps,
      input: [...episode.input, ...episode.target],
      labels: { start: episode.input.length },
    },
    mode,
  );
  if (labels !== "answer") labelSteps(layout, mode, labels === "answers" ? episode.answers : undefined);
  // The token before it in a row belongs to another sample.
  layout.labels[0] = IGNORED_LABEL;
  return layout;
}

/**
 * Labels the text of all steps that have memory or text before them; the first token of a block has nothing to be
 * predicted from.
 * @param answers restricts the labels of each step to a range of it; undefined inside: no labels there
 */
function labelSteps(layout: ParallelLayout, mode: ParallelMode, answers: Episode["answers"]): void {
  const { segments, labels, inputIds } = layout;
  const compressed = mode.method !== "full" && mode.method !== "none";
  const texts = segments.filter(({ kind }) => kind === "text");
  texts.forEach(({ block, start, end }, step) => {
    const nothingBefore = texts.length > 1 && (compressed ? block === 0 : step === 0);
    // The input is the last text and has no entry among the answers: its target is labelled already.
    const range = answers === undefined ? { start: 0, end: end - start } : answers[step];
    if (nothingBefore || range === undefined) return;
    for (let token = start + Math.max(1, range.start); token < start + range.end; token++) {
      labels[token] = inputIds[token] as number;
    }
  });
}

/** A batch that is decided but not yet written out, by default as masks. */
export interface PlannedBatch<Batch = DistilledBatch> {
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
        const whole = placeLayouts(placed, rowLength);
        const batch = labelBudget === undefined ? whole : dropSurplusLabels(whole, labelBudget, batchIndex);
        return options.teacher === true ? { ...batch, teacher: placeTeacher(placed, rowLength) } : batch;
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
): AsyncGenerator<DistilledBatch, void, void> {
  let index = 0;
  for await (const planned of packedBatches(episodes, options)) {
    if (index++ >= skip) yield planned.build();
  }
}
