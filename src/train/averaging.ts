/**
 * @file How merging weighs the time steps, the online update and the matrix that reproduces it in one pass, and the same
 * kind of matrix for pooling.
 */

import { PrecisError } from "../errors.js";
import type { ParallelLayout, Segment } from "./parallel-layout.js";
import { poolSizes } from "./pooling.js";

/**
 * Weight a_t of the new time step in the merged memory `M_t = (1 - a_t) M_(t-1) + a_t h_t` (CCM, arXiv 2312.03414,
 * eq. 3): 1/t for the running mean, or the constant `decay` of the moving average, of which the first step is 1.
 * @param step t, counted from 1
 * @param decay a in (0, 1]; the mean when left out
 * @throws PrecisError OPTION_INVALID for a decay outside (0, 1]
 */
export function mergeWeight(step: number, decay?: number): number {
  if (decay === undefined) return 1 / step;
  if (!(decay > 0 && decay <= 1)) {
    throw new PrecisError("OPTION_INVALID", `The merge decay must be above 0 and at most 1, and is ${decay}.`);
  }
  return step === 1 ? 1 : decay;
}

/**
 * Weights [steps] of the time steps 1..steps in the memory after the last of them; they sum to 1. Mean: 1/steps each.
 * Moving average: a(1-a)^(steps-i), and (1-a)^(steps-1) for the first.
 * @throws PrecisError OPTION_INVALID for a decay outside (0, 1]
 */
export function stepWeights(steps: number, decay?: number): Float64Array {
  const weights = new Float64Array(steps);
  // Not the product of the updates: 1/t is exact, and a product of quotients is only nearly so.
  if (decay === undefined) return weights.fill(1 / steps);
  for (let i = 1; i <= steps; i++) weights[i - 1] = mergeWeight(i, decay) * (1 - decay) ** (steps - i);
  return weights;
}

/**
 * Writes the averaging weights of one layout; rows other than those of SUM tokens stay as they are. After RoPE, keys and
 * values of SUM rows are replaced by `weights · keys`.
 * - merge: the row of SUM_k holds the step weights at the COMP_k before it;
 * - compressive: the row of SUM_k holds 1 / length at the tokens of the k-th run of its step.
 * @param target row-major [rows, stride], rows and columns of the layout starting at `start`
 */
export function writeAveraging(layout: ParallelLayout, target: Float32Array, stride: number, start: number): void {
  const write = layout.pools === true ? writePooling : writeMerging;
  write(layout, target, stride, start);
}

function writePooling(layout: ParallelLayout, target: Float32Array, stride: number, start: number): void {
  let text: Segment | undefined;
  for (const segment of layout.segments) {
    if (segment.kind === "text") text = segment;
    if (segment.kind !== "sum" || text === undefined) continue;
    const { start: from, end } = text;
    const columns = Array.from({ length: end - from }, (_, i) => from + i);
    const pooled = columns.filter((column) => !layout.sinkColumns.includes(column));
    let next = 0;
    poolSizes(pooled.length, segment.end - segment.start).forEach((length, k) => {
      const row = (start + segment.start + k) * stride + start;
      for (const column of pooled.slice(next, next + length)) target[row + column] = 1 / length;
      next += length;
    });
  }
}

function writeMerging(layout: ParallelLayout, target: Float32Array, stride: number, start: number): void {
  const { decay } = layout;
  const compStarts: number[] = [];
  for (const segment of layout.segments) {
    if (segment.kind === "comp") compStarts.push(segment.start);
    if (segment.kind !== "sum") continue;
    const weights = stepWeights(compStarts.length, decay);
    for (let k = 0; k < segment.end - segment.start; k++) {
      const row = (start + segment.start + k) * stride + start + k;
      compStarts.forEach((column, i) => (target[row + column] = weights[i] as number));
    }
  }
}
