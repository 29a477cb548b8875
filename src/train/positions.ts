/** @file The "skip" rule of position ids, for one parallel pass and for one time step of inference. */

import type { Segment } from "./parallel-layout.js";

/** Position id of padding tokens; any would do, this is what the reference implementation gives them. */
export const PAD_POSITION = 1;

/**
 * Positions of the COMP (and SUM) tokens that follow `textTokens` tokens of text: COMP_k takes `textTokens + k`. They do
 * not advance the count, so the text that follows starts at `textTokens` again.
 */
export function compPositions(textTokens: number, compTokens: number): number[] {
  return Array.from({ length: compTokens }, (_, k) => textTokens + k);
}

/** Position ids [seq] of a layout's segments: text is numbered as if COMP and SUM tokens were absent. */
export function skipPositions(segments: readonly Segment[]): Int32Array {
  const positions = new Int32Array(segments.at(-1)?.end ?? 0);
  let textTokens = 0;
  for (const { kind, start, end } of segments) {
    const length = end - start;
    if (kind === "text") for (let i = start; i < end; i++) positions[i] = textTokens++;
    else positions.set(compPositions(textTokens, length), start);
  }
  return positions;
}
