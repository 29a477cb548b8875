/** @file How many samples a budget of keys and values holds at once: a memory each, and what answering adds to it. */

/** What one sample comes to, in tokens and KV positions per layer. */
export interface SampleSize {
  /** Positions that the memory of the context holds. */
  memorySlots: number;
  inputTokens: number;
  answerTokens: number;
}

/** A batch, and whether the stated maximum rather than the budget is what limits it. */
export interface BatchLimit {
  batch: number;
  capped: boolean;
}

/** Most KV positions per layer that a sample needs at once. The last token of an answer is chosen, but never read. */
export function peakSlots({ memorySlots, inputTokens, answerTokens }: SampleSize): number {
  return memorySlots + inputTokens + answerTokens - 1;
}

/**
 * The most samples whose keys and values fit a budget; 0 if not even one does.
 * @param budgetBytes for all samples together
 * @param sampleBytes most that one needs at once, more than 0
 * @param cap most that may be answered at once, whatever the budget
 */
export function largestBatch(budgetBytes: number, sampleBytes: number, cap: number): BatchLimit {
  const fitting = Math.floor(budgetBytes / sampleBytes);
  return { batch: Math.min(fitting, cap), capped: fitting > cap };
}

/** Batches of one size, none left unfilled, that together have at least as many samples as wanted. */
export function batchesFor(wantedSamples: number, batch: number): number {
  return Math.max(1, Math.ceil(wantedSamples / batch));
}
