/** @file Layouts side by side in rows of one length, as training graphs take them: padded, or placed several to a row. */
import { PrecisError } from "../errors.js";
import { noAveraging, writeGroups, type AveragingGroups } from "./averaging-groups.js";
import { packAttend, packedWords } from "./packed-mask.js";
import { IGNORED_LABEL, type ParallelLayout } from "./parallel-layout.js";
import { PAD_POSITION } from "./positions.js";

/** Layouts padded to one length. */
export interface PaddedBatch {
  batch: number;
  seq: number;
  /** [batch, seq] */
  inputIds: Int32Array;
  /** [batch, seq], 1 at real tokens. */
  attentionMask: Uint8Array;
  /** [batch, seq, words]: who attends to whom, packed as in `packed-mask.ts`; rows and columns of pads are 0. */
  attendBits: Float32Array;
  /** [batch, seq] */
  positionIds: Int32Array;
  /** [batch, seq] */
  gate: Float32Array;
  /** [batch, seq] */
  sumMask: Uint8Array;
  /** [batch, seq], 1 at sinks, which even sliding windows keep. */
  sinkMask: Uint8Array;
  /** What the keys and values of SUM tokens are averages of; undefined where no layout has SUM tokens. */
  averaging: AveragingGroups | undefined;
  /** [batch, seq], {@link IGNORED_LABEL} at pads. */
  labels: Int32Array;
  /** [batch, seq], the column of the token that predicts this one. */
  predictors: Int32Array;
}

/** Options of {@link padLayouts}. */
export interface PadOptions {
  /** Where pads go; default left, as the last logits then line up. */
  side?: "left" | "right";
  /** Length to pad to; default that of the longest layout. */
  length?: number;
}

/**
 * Pads layouts to a common length, one per row, and makes the masks of the batch, in time O(batch · seq²).
 * @throws PrecisError INPUT_INVALID when there are no layouts, or `length` is less than the longest
 */
export function padLayouts(layouts: readonly ParallelLayout[], options: PadOptions = {}): PaddedBatch {
  const longest = Math.max(...layouts.map((layout) => layout.seq));
  const { side = "left", length: seq = longest } = options;
  if (layouts.length === 0) throw new PrecisError("INPUT_INVALID", "A batch needs at least one layout.");
  if (seq < longest) throw new PrecisError("INPUT_INVALID", `A layout of ${longest} tokens exceeds length ${seq}.`);
  return placeLayouts(
    layouts.map((layout) => [{ layout, start: side === "left" ? seq - layout.seq : 0 }]),
    seq,
  );
}

/** A layout and the column of its row at which it starts. */
export interface PlacedLayout {
  layout: ParallelLayout;
  start: number;
}

/** The batch of placed layouts. No token sees another layout's, and positions start again with each. */
export function placeLayouts(rows: readonly (readonly PlacedLayout[])[], seq: number): PaddedBatch {
  const batch = rows.length;
  const inputIds = new Int32Array(batch * seq).fill(rows[0]?.[0]?.layout.padId ?? 0);
  const attentionMask = new Uint8Array(batch * seq);
  const words = packedWords(seq);
  const attendBits = new Float32Array(batch * seq * words);
  const positionIds = new Int32Array(batch * seq).fill(PAD_POSITION);
  const gate = new Float32Array(batch * seq);
  const sumMask = new Uint8Array(batch * seq);
  const sinkMask = new Uint8Array(batch * seq);
  const labels = new Int32Array(batch * seq).fill(IGNORED_LABEL);
  const predictors = Int32Array.from(labels, (_, at) => (at % seq) - 1);
  const merges = rows.some((row) => row.some(({ layout }) => layout.sumMask.includes(1)));
  const averaging = merges ? noAveraging(batch * seq) : undefined;
  rows.forEach((row, b) => {
    for (const { layout, start } of row) {
      const first = b * seq + start;
      inputIds.set(layout.inputIds, first);
      attentionMask.fill(1, first, first + layout.seq);
      positionIds.set(layout.positionIds, first);
      gate.set(layout.gate, first);
      sumMask.set(layout.sumMask, first);
      for (const column of layout.sinkColumns) sinkMask[first + column] = 1;
      labels.set(layout.labels, first);
      if (layout.predictors !== undefined) {
        predictors.set(
          layout.predictors.map((token) => start + token),
          first,
        );
      }
      packAttend(layout, attendBits, words, first, start);
      if (averaging !== undefined) writeGroups(layout, averaging, b * seq, start);
    }
  });
  const masks = { attentionMask, attendBits, gate, sumMask, sinkMask };
  return { batch, seq, inputIds, positionIds, ...masks, averaging, labels, predictors };
}
