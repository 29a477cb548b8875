/** @file How merging weighs a new time step against the memory so far. */

import { PrecisError } from "../errors.js";

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
