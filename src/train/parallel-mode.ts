/** @file How the parallel forward compresses context: its modes, and the ids of the tokens that each of them adds. */
import { PrecisError } from "../errors.js";
import { mergeWeight } from "./averaging.js";

/** Ids that a layout needs to know. COMP and SUM ids start at `vocabSize`. */
export interface TokenIds {
  /** Size of the model's own vocabulary. */
  vocabSize: number;
  /** Fills padding; masked by place, so the id may also occur in text. */
  padId: number;
  /** What a sink keeps visible. */
  bosId: number;
}

/**
 * How context is compressed in the parallel forward. c = time step, C = COMP tokens, S = SUM tokens:
 * - concat: `c1 C c2 C c3 C input`; memory is every C;
 * - merge, recursive: `c1 C S c2 C S c3 C S input`, else `c1 C c2 C c3 C S input`; memory is the mean (or moving
 *   average, with `decay`) of every C;
 * - gist: `c1 c2 c3 C input`; one compression of everything;
 * - compressive: `c1 S c2 S c3 S input`; S are means of runs of the step's own tokens, and memory is every S. A step has
 *   `compTokens` of them, or one per token where it is shorter; tokens that are sinks are not pooled;
 * - full: `c1 c2 c3 input`; none: `input`. The two bounds, without new tokens.
 *
 * `recursive`: a time step sees the memory so far while it is compressed; otherwise only itself.
 * `compTokens`: COMP tokens per time step. `sink`: tokens of id `bosId` stay visible to all later ones.
 */
export type ParallelMode = TokenIds &
  (
    | { method: "concat"; recursive: boolean; compTokens: number; sink: boolean }
    | { method: "merge"; recursive: boolean; compTokens: number; sink: boolean; decay?: number }
    | { method: "gist"; compTokens: number; sink: boolean; recursive?: boolean }
    | { method: "compressive"; recursive: boolean; compTokens: number; sink: boolean }
    | { method: "full"; compTokens?: number; sink?: boolean; recursive?: boolean }
    | { method: "none"; compTokens?: number; sink?: boolean; recursive?: boolean }
  );

/** The ids of COMP_0..COMP_(n-1): the first ones after the vocabulary. Empty for the modes without COMP tokens. */
export function compTokenIds(mode: ParallelMode): number[] {
  const count = mode.method === "concat" || mode.method === "merge" || mode.method === "gist" ? mode.compTokens : 0;
  return Array.from({ length: count }, (_, k) => mode.vocabSize + k);
}

/** The ids of SUM_0..SUM_(n-1), after the COMP ids, in the modes that average: merge and compressive. Else none. */
export function sumTokenIds(mode: ParallelMode): number[] {
  if (mode.method !== "merge" && mode.method !== "compressive") return [];
  const first = mode.vocabSize + compTokenIds(mode).length;
  return Array.from({ length: mode.compTokens }, (_, k) => first + k);
}

/**
 * Refuses a mode that makes no sense.
 * @throws OPTION_INVALID for a number of COMP tokens or a moving average's weight out of range
 */
export function checkMode(mode: ParallelMode): void {
  if (mode.method === "full" || mode.method === "none") return;
  if (!Number.isInteger(mode.compTokens) || mode.compTokens < 1) {
    const message = `compTokens must be a positive whole number and is ${mode.compTokens}.`;
    throw new PrecisError("OPTION_INVALID", message, { value: mode.compTokens });
  }
  if (mode.method === "merge") mergeWeight(1, mode.decay);
}
