/** @file How the tokens of a time step are grouped when their keys and values are pooled; for training and inference. */

/**
 * Sizes of `slots` runs of neighbouring tokens that together are all `tokens`, as equal as whole numbers allow; one run
 * per token where there are fewer tokens than slots.
 * @param slots at least 1
 */
export function poolSizes(tokens: number, slots: number): number[] {
  const groups = Math.min(tokens, slots);
  const bound = (group: number): number => Math.floor((group * tokens) / groups);
  return Array.from({ length: groups }, (_, group) => bound(group + 1) - bound(group));
}
