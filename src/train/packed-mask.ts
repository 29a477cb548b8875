/**
 * @file Masks of ones and zeros, sixteen to a float32: what a batch carries instead of a dense bias, which would be
 * sixteen times as large to make, to hand between threads and to upload. Graphs take them apart again.
 */
import { writeAttend } from "./attention-mask.js";
import type { ParallelLayout } from "./parallel-layout.js";

/** Ones and zeros of one number. A float32 holds whole numbers below 2²⁴ exactly; sixteen divides usual row lengths. */
export const PACKED_BITS = 16;

/** Numbers that a row of `seq` ones and zeros takes. */
export function packedWords(seq: number): number {
  return Math.ceil(seq / PACKED_BITS);
}

/** Packs `count` rows of a dense mask: bit k of number w is the element 16 w + k. */
export function packMask(mask: Uint8Array, count: number, seq: number): Float32Array {
  const words = packedWords(seq);
  const packed = new Float32Array(count * words);
  for (let row = 0; row < count; row++) addBits(mask.subarray(row * seq, (row + 1) * seq), packed, row * words, 0);
  return packed;
}

/** The dense form, one byte each. */
export function unpackMask(packed: Float32Array, seq: number): Uint8Array {
  const words = packedWords(seq);
  const mask = new Uint8Array((packed.length / words) * seq);
  for (let at = 0; at < mask.length; at++) {
    const [row, column] = [Math.floor(at / seq), at % seq];
    mask[at] = ((packed[row * words + (column >> 4)] as number) >> (column & 15)) & 1;
  }
  return mask;
}

/** Sets bits that are still 0, from bit `shift` of number `at` on. */
function addBits(ones: Uint8Array, packed: Float32Array, at: number, shift: number): void {
  for (let i = 0; i < ones.length; i++) {
    if (ones[i] === 0) continue;
    const bit = shift + i;
    const word = at + (bit >> 4);
    packed[word] = (packed[word] as number) + (1 << (bit & 15));
  }
}

/**
 * Adds the attention mask of a layout to a packed mask that has zeros there.
 * @param row first row of the layout in `packed`, whose rows are `words` long
 * @param start its first column
 */
export function packAttend(
  layout: ParallelLayout,
  packed: Float32Array,
  words: number,
  row: number,
  start: number,
): void {
  const { seq } = layout;
  const attend = new Uint8Array(seq * seq);
  writeAttend(layout, attend, seq, 0);
  for (let i = 0; i < seq; i++) addBits(attend.subarray(i * seq, i * seq + i + 1), packed, (row + i) * words, start);
}
