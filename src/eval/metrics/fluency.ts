/** @file How a text reads by itself: whether it varies, and whether it repeats itself. */
import { countNgrams } from "./overlap.js";

/** Share of the runs of `n` words that are different ones: 1 if no run occurs twice. Li et al. 2016. */
export function distinct(words: readonly string[], n: number): number {
  const runs = words.length - n + 1;
  return runs <= 0 ? 1 : countNgrams(words, n).size / runs;
}

/** Share of the runs of four words that occurred before in the text: 0 if none did. Welleck et al. 2020 (seq-rep-4). */
export function repetition(words: readonly string[]): number {
  return 1 - distinct(words, 4);
}
