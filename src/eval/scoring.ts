/** @file Likelihoods of answers given a memory, in as few passes as the public API allows. */
import type { Memory } from "../memory/memory.js";
import { logProbabilityAt } from "./metrics.js";

/** Sum of the negative log-likelihoods of `target` after `input`. The memory stays unchanged. */
export async function targetNll(
  memory: Memory,
  input: readonly number[],
  target: readonly number[],
  signal?: AbortSignal,
): Promise<number> {
  const { logits, vocabSize } = await memory.forward([...input, ...target.slice(0, -1)], { signal });
  return target.reduce((nll, id, index) => nll - logProbabilityAt(logits, input.length - 1 + index, vocabSize, id), 0);
}

/**
 * Mean log-probability per token of each option after `input`. What all options share is read once; all options of one
 * token are read off one pass. The memory stays unchanged.
 */
export async function optionScores(
  memory: Memory,
  input: readonly number[],
  options: readonly (readonly number[])[],
  signal?: AbortSignal,
): Promise<number[]> {
  const longer = options.flatMap((option, index) => (option.length > 1 ? [index] : []));
  // With one pass to make there is nothing to share.
  const shares = longer.length > 1 && input.length > 1;
  const reader = shares ? await memory.fork() : memory;
  try {
    if (shares) await reader.score(input.slice(0, -1), { signal });
    const ask = shares ? input.slice(-1) : input;
    const sums = options.map(() => 0);
    for (const [pass, index] of (longer.length > 0 ? longer : [0]).entries()) {
      const option = options[index] as readonly number[];
      const { logits, vocabSize } = await reader.forward([...ask, ...option.slice(0, -1)], { signal });
      const first = ask.length - 1;
      if (pass === 0) {
        for (const [other, ids] of options.entries()) {
          sums[other] = logProbabilityAt(logits, first, vocabSize, ids[0] as number);
        }
      }
      for (const [place, id] of option.entries()) {
        if (place > 0) sums[index] = (sums[index] as number) + logProbabilityAt(logits, first + place, vocabSize, id);
      }
    }
    return sums.map((sum, index) => sum / (options[index] as readonly number[]).length);
  } finally {
    if (shares) await reader.dispose();
  }
}
