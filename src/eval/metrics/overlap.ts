/** @file How much of a reference text another text says in the same words: BLEU-4 and ROUGE-L. */

/** Longest n-grams that BLEU-4 looks at. */
const LONGEST = 4;

/** Words and single marks, in lower case; what both measures count. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+(?:['’][\p{L}]+)*|[^\s\p{L}\p{N}]/gu) ?? [];
}

/** Every run of `n` words with the number of its occurrences. */
export function countNgrams(words: readonly string[], n: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let start = 0; start + n <= words.length; start++) {
    const ngram = words.slice(start, start + n).join(" ");
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  return counts;
}

/**
 * BLEU-4 of one text against one reference, 0 to 1: the geometric mean of how many of its 1- to 4-grams the reference has
 * (each at most as often as there), times a penalty for being shorter. Papineni et al. 2002. Matches and totals of n > 1
 * are one larger, so that a single text without a common 4-gram is not simply 0 (Lin and Och 2004).
 */
export function bleu4(candidate: readonly string[], reference: readonly string[]): number {
  if (candidate.length === 0 || reference.length === 0) return 0;
  let logarithms = 0;
  for (let n = 1; n <= LONGEST; n++) {
    const found = countNgrams(candidate, n);
    const wanted = countNgrams(reference, n);
    const smoothing = n === 1 ? 0 : 1;
    let [matches, total] = [smoothing, smoothing];
    for (const [ngram, count] of found) {
      matches += Math.min(count, wanted.get(ngram) ?? 0);
      total += count;
    }
    if (matches === 0) return 0;
    logarithms += Math.log(matches / total);
  }
  const brevity = Math.min(1, Math.exp(1 - reference.length / candidate.length));
  return brevity * Math.exp(logarithms / LONGEST);
}

/**
 * ROUGE-L of one text against one reference, 0 to 1: the F1 of the longest sequence of words that both have in the same
 * order, not necessarily side by side. Lin 2004.
 */
export function rougeL(candidate: readonly string[], reference: readonly string[]): number {
  const common = longestCommonSubsequence(candidate, reference);
  return common === 0 ? 0 : (2 * common) / (candidate.length + reference.length);
}

/** Length of the longest sequence that both have in the same order. */
function longestCommonSubsequence(a: readonly string[], b: readonly string[]): number {
  let previous = new Uint32Array(b.length + 1);
  for (const word of a) {
    const row = new Uint32Array(b.length + 1);
    for (let j = 0; j < b.length; j++) {
      row[j + 1] = word === b[j] ? (previous[j] as number) + 1 : Math.max(previous[j + 1] as number, row[j] as number);
    }
    previous = row;
  }
  return previous.at(-1) as number;
}
