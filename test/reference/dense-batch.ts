/** @file The masks and averages of a batch written out, for tests that look at every pair of tokens. */

import { denseAveraging } from "#precis/train/averaging-groups.js";
import { unpackMask } from "#precis/train/packed-mask.js";
import type { PaddedBatch } from "#precis/train/padded-batch.js";

/** A batch with dense squares, [batch, seq, seq] each. */
export type DenseBatch = Omit<PaddedBatch, "averaging"> & {
  /** 1 where the row's token attends to the column's. */
  attend: Uint8Array;
  /** Zero but in SUM rows; undefined where nothing is averaged. */
  averaging: Float32Array | undefined;
};

/** Writes them out. */
export function dense(batch: PaddedBatch): DenseBatch {
  const { seq, attendBits, averaging } = batch;
  return {
    ...batch,
    attend: unpackMask(attendBits, seq),
    averaging: averaging && denseAveraging(averaging, seq),
  };
}
