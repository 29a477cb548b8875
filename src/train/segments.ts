/**
 * @file Samples cut at their time steps, for recurrent summaries: segment t of every sample of a batch runs at once. All
 * samples end together, so that their inputs are the last segment; those with fewer steps begin later.
 */
import { PrecisError } from "../errors.js";
import type { PaddedBatch } from "./padded-batch.js";
import { IGNORED_LABEL } from "./parallel-layout.js";
import { packMask } from "./packed-mask.js";
import { PAD_POSITION } from "./positions.js";

/** The text of one segment: a time step, or at the end of a sample its input and target. */
export interface SegmentText {
  ids: ArrayLike<number>;
  /** Not shifted; {@link IGNORED_LABEL} where the loss looks away. */
  labels: ArrayLike<number>;
}

/** Sizes of the segments of a batch. */
export interface SegmentShape {
  rows: number;
  /** Most tokens of text in a segment. */
  segmentLength: number;
  /** Summary tokens of a step. */
  compTokens: number;
  /** Whether summaries of all steps are passed on (AutoCompressor), or the last step's only (RMT). */
  accumulate: boolean;
  /** Most time steps of a sample. */
  maxSteps: number;
  vocabSize: number;
  padId: number;
}

/** One segment of all samples of a batch. */
export interface RecurrentSegment {
  /** Rows of [soft prompt | text, padded | summary tokens]. */
  tokens: PaddedBatch;
  /** [rows, slots, compTokens], 1 where a summary of this segment takes a slot of the soft prompt. */
  place: Float32Array;
  /** [rows, slots], 1 where a slot keeps what it holds. */
  keep: Float32Array;
}

/** Samples ready for back-propagation through time. */
export interface SegmentedBatch {
  segments: readonly RecurrentSegment[];
}

/** Summaries that a soft prompt has room for. */
export function promptSlots({ accumulate, compTokens, maxSteps }: SegmentShape): number {
  return accumulate ? compTokens * maxSteps : compTokens;
}

/** Tokens of a row: soft prompt, text, summary tokens. */
export function segmentWidth(shape: SegmentShape): number {
  return promptSlots(shape) + shape.segmentLength + shape.compTokens;
}

/** Slots of the soft prompt that hold a summary when a sample's step `step` (from 0) is the batch's segment `turn`. */
function heldSlots({ accumulate, compTokens }: SegmentShape, step: number, turn: number): [start: number, end: number] {
  if (!accumulate) return [0, step > 0 ? compTokens : 0];
  return [(turn - step) * compTokens, turn * compTokens];
}

/**
 * Cuts samples into the segments of one batch.
 * @param samples at most `rows`, each its steps and then its input; shorter lists leave rows empty
 * @throws INPUT_INVALID for a sample with more steps or longer segments than the shape allows
 */
export function segmentSamples(samples: readonly (readonly SegmentText[])[], shape: SegmentShape): SegmentedBatch {
  for (const sample of samples) {
    const longest = Math.max(...sample.map(({ ids }) => ids.length));
    if (sample.length - 1 <= shape.maxSteps && longest <= shape.segmentLength) continue;
    throw new PrecisError(
      "INPUT_INVALID",
      `A sample of ${sample.length - 1} steps, segments up to ${longest} tokens, exceeds ${shape.maxSteps} and ${shape.segmentLength}.`,
      { value: longest },
    );
  }
  const count = Math.max(1, ...samples.map((sample) => sample.length));
  return { segments: Array.from({ length: count }, (_, turn) => segmentAt(samples, shape, turn, count)) };
}

function segmentAt(
  samples: readonly (readonly SegmentText[])[],
  shape: SegmentShape,
  turn: number,
  count: number,
): RecurrentSegment {
  const { rows, segmentLength, compTokens, accumulate, vocabSize, padId } = shape;
  const [slots, seq] = [promptSlots(shape), segmentWidth(shape)];
  const inputIds = new Int32Array(rows * seq).fill(padId);
  const attentionMask = new Uint8Array(rows * seq);
  const attend = new Uint8Array(rows * seq * seq);
  const positionIds = new Int32Array(rows * seq).fill(PAD_POSITION);
  const labels = new Int32Array(rows * seq).fill(IGNORED_LABEL);
  const place = new Float32Array(rows * slots * compTokens);
  const keep = new Float32Array(rows * slots).fill(1);
  samples.forEach((sample, row) => {
    const step = turn - (count - sample.length);
    const text = sample[step];
    if (text === undefined) return;
    const isInput = turn === count - 1;
    const [from, to] = heldSlots(shape, step, turn);
    const columns: number[] = [];
    const add = (column: number, id: number): void => {
      inputIds[row * seq + column] = id;
      attentionMask[row * seq + column] = 1;
      positionIds[row * seq + column] = columns.length;
      columns.push(column);
    };
    // Ids beyond the new tokens have no embedding: summaries are added where they stand.
    for (let slot = from; slot < to; slot++) add(slot, vocabSize + compTokens);
    for (let i = 0; i < text.ids.length; i++) {
      add(slots + i, text.ids[i] as number);
      labels[row * seq + slots + i] = text.labels[i] as number;
    }
    for (let k = 0; k < (isInput ? 0 : compTokens); k++) {
      add(slots + segmentLength + k, vocabSize + k);
      const slot = accumulate ? turn * compTokens + k : k;
      place[(row * slots + slot) * compTokens + k] = 1;
      keep[row * slots + slot] = 0;
    }
    columns.forEach((at, i) => {
      const start = (row * seq + at) * seq;
      for (let j = 0; j <= i; j++) attend[start + (columns[j] as number)] = 1;
    });
  });
  const tokens: PaddedBatch = {
    batch: rows,
    seq,
    inputIds,
    attentionMask,
    attendBits: packMask(attend, rows * seq, seq),
    positionIds,
    gate: new Float32Array(rows * seq).fill(1),
    sumMask: new Uint8Array(rows * seq),
    sinkMask: new Uint8Array(rows * seq),
    averaging: undefined,
    labels,
    predictors: Int32Array.from(labels, (_, at) => (at % seq) - 1),
  };
  return { tokens, place, keep };
}
