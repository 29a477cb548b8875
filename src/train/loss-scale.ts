/**
 * @file Mixed precision: which precisions there are, and the factor on the loss that keeps gradients of half floats within
 * their range (Micikevicius et al. 2018). The factor is a power of two, so that it rounds nothing; gradients are divided
 * by it as float32. It falls when a gradient leaves the range, and rises again after many that did not.
 */

import type { Device } from "../runtime/device.js";

/**
 * What training computes with. `fp16`: matrix products, and what lies between those of a branch, in half floats, frozen
 * matrices held as such; what is trained, the optimiser, norms, softmax, sums and the loss stay float32. `int8`: the same
 * but for the frozen matrices, which are read as 8-bit weights, and norms, softmax and the sums through the layers, which
 * are half floats too; WebGPU multiplies by 8-bit weights several times faster, and passes are shorter.
 */
export type Precision = "fp32" | "fp16" | "int8";

/** Words that an option of the precision takes. */
export const PRECISIONS = ["fp32", "fp16", "int8", "auto"] as const;

/** Whether gradients run through half floats, so that the loss needs a factor. */
export function isHalf(precision: Precision | undefined): boolean {
  return precision === "fp16" || precision === "int8";
}

/** The precision that a word stands for on a device: `auto` is fp16 on WebGPU, where that is faster, and fp32 elsewhere. */
export function resolvePrecision(word: (typeof PRECISIONS)[number], device: Device | "auto"): Precision {
  if (word !== "auto") return word;
  return device === "webgpu" ? "fp16" : "fp32";
}

/** The state of the factor; part of what a run is resumed from. */
export interface LossScale {
  /** Factor on the loss, a power of two from 1 on. */
  factor: number;
  /** Steps with this factor whose gradients were all finite. */
  goodSteps: number;
}

/** Where a run starts. */
export const INITIAL_LOSS_SCALE: LossScale = { factor: 2 ** 15, goodSteps: 0 };

/** Steps without an overflow after which a larger factor is tried. */
const PATIENCE = 500;

const LARGEST = 2 ** 24;

/**
 * The factor after a step.
 * @param finite whether all of the step's gradients were finite
 * @returns undefined if they were not although the factor is 1: then it was not the factor that drove them out of range
 */
export function nextLossScale({ factor, goodSteps }: LossScale, finite: boolean): LossScale | undefined {
  if (!finite) return factor > 1 ? { factor: factor / 2, goodSteps: 0 } : undefined;
  if (goodSteps + 1 < PATIENCE) return { factor, goodSteps: goodSteps + 1 };
  return { factor: Math.min(2 * factor, LARGEST), goodSteps: 0 };
}
