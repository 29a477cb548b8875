/**
 * @file What the teacher of distillation reads: the text of a batch's samples without COMP and SUM tokens, in the same
 * rows and order as the student's, with the full context visible.
 */
import type { PlacedLayout } from "./padded-batch.js";
import { IGNORED_LABEL, type ParallelLayout } from "./parallel-layout.js";

/** Sample number of places that hold no text. */
const NO_SAMPLE = -1;

/** The teacher's inputs, [batch, seq] each; a text is never longer than its layout, so rows are as long as the student's. */
export interface TeacherBatch {
  inputIds: Int32Array;
  /** Counted from 0 in each sample. */
  positionIds: Int32Array;
  /** Number of the sample in its row; −1 at pads. A token sees those of its sample up to itself. */
  samples: Float32Array;
  /**
   * For each token of the student's batch, the place in the teacher's that predicts it: the text token before it. −1 for
   * the first token of a sample, and for tokens that are not text.
   */
  predictors: Int32Array;
}

/** Indices of a layout's text tokens, in order; the text of a sentinel span counts. */
function textTokens({ segments }: ParallelLayout): number[] {
  return segments.flatMap(({ kind, start, end }) =>
    kind === "text" || kind === "span" ? Array.from({ length: end - start }, (_, i) => start + i) : [],
  );
}

/** The teacher's side of the batch that `placeLayouts` makes of the same rows. */
export function placeTeacher(rows: readonly (readonly PlacedLayout[])[], seq: number): TeacherBatch {
  const tokens = rows.length * seq;
  const inputIds = new Int32Array(tokens).fill(rows[0]?.[0]?.layout.padId ?? 0);
  const positionIds = new Int32Array(tokens);
  const samples = new Float32Array(tokens).fill(NO_SAMPLE);
  const predictors = new Int32Array(tokens).fill(NO_SAMPLE);
  rows.forEach((row, b) => {
    let used = b * seq;
    row.forEach(({ layout, start }, sample) => {
      textTokens(layout).forEach((token, position) => {
        inputIds[used + position] = layout.inputIds[token] as number;
        positionIds[used + position] = position;
        samples[used + position] = sample;
        if (position > 0) predictors[b * seq + start + token] = used + position - 1;
      });
      used += textTokens(layout).length;
    });
  });
  return { inputIds, positionIds, samples, predictors };
}

/** Whether every label of a batch has a text token before it, for the teacher to predict it from. */
export function teacherKnowsLabels(labels: Int32Array, { predictors }: TeacherBatch): boolean {
  return labels.every((label, token) => label === IGNORED_LABEL || (predictors[token] as number) >= 0);
}
