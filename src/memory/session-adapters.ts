/** @file Whether the adapters of a memory fit its method. */
import { PrecisError } from "../errors.js";
import type { LoadedAdapter } from "../runtime/loaded-adapter.js";
import type { MemoryBehavior, MemoryMethod } from "./method.js";

const TRAINING_FREE = "Pass one with --adapter DIR, or choose a training-free method (`precis methods` lists them).";

/** The adapters of a memory. */
export interface SessionAdapters {
  adapter: LoadedAdapter | undefined;
  /** A sentinel adapter beside it, for spans within steps. */
  spanAdapter: LoadedAdapter | undefined;
}

/**
 * Refuses adapters whose new tokens are not those that the method runs.
 * @throws ADAPTER_MISMATCH
 */
export function checkAdapters(
  method: MemoryMethod,
  behavior: MemoryBehavior,
  { adapter, spanAdapter }: SessionAdapters,
): void {
  const refuse = (problem: string, nextStep: string, given = adapter): PrecisError =>
    new PrecisError("ADAPTER_MISMATCH", problem, { value: given?.directory, nextStep });
  const { name } = method;
  const isSentinel = adapter?.method === "sentinel";
  if (method.needsSentinels === true && !isSentinel) {
    throw refuse(`The method ${name} needs an adapter that was trained for it.`, TRAINING_FREE);
  }
  if (method.needsCompTokens && (adapter?.compTokens ?? 0) === 0) {
    throw refuse(`The method ${name} needs an adapter with COMP tokens.`, TRAINING_FREE);
  }
  if (method.needsCompTokens && method.needsSentinels !== true && isSentinel) {
    const nextStep = "Pass it as spanAdapter (--span-adapter DIR), or use the method sentinel.";
    throw refuse(`The method ${name} needs an adapter with COMP tokens, and this one has sentinels.`, nextStep);
  }
  if (method.needsSummaryGain === true && adapter?.summaryGain === undefined) {
    const nextStep = `Train one with \`precis train --method ${name}\`.`;
    throw refuse(`The adapter was not trained for summaries, as ${name} needs.`, nextStep);
  }
  if (behavior.compressesSpans === true && spanAdapter?.method !== "sentinel") {
    const nextStep = "Pass one as spanAdapter (--span-adapter DIR), or leave the option spans at none.";
    throw refuse("Spans within steps need a second adapter, one of the method sentinel.", nextStep, spanAdapter);
  }
  if (behavior.compressesSpans !== true && spanAdapter !== undefined) {
    const nextStep = "Set the option spans of ccm-concat or ccm-merge, as spans=sentence.";
    throw refuse(`The method ${name} has no use for a second adapter as it is set.`, nextStep, spanAdapter);
  }
}
