/**
 * @file The two tokens that wrap a span: `<CL>` opens it, `<CR>` closes it and keeps its keys and values. Ren et al. 2023,
 * "Context Compression for Auto-regressive Transformers with Sentinel Tokens", arXiv:2310.08152.
 */

/** Number of sentinel tokens, which an adapter brings as its first new embeddings. */
export const SENTINEL_TOKENS = 2;

/** Most words of a span unless told otherwise, as in the authors' scripts. */
export const LONGEST_SPAN = 25;

/** A span of tokens or words, [start, end). */
export interface Span {
  start: number;
  end: number;
}

/** The ids of `<CL>` (open) and `<CR>` (close): the first two after the vocabulary. They are read, never predicted. */
export function sentinelIds(vocabSize: number): { open: number; close: number } {
  return { open: vocabSize, close: vocabSize + 1 };
}

/**
 * Positions of the sentinels of a span whose text has positions `first` … `last`: each repeats the position before it,
 * and `<CL>` at the very beginning has 0.
 */
export function sentinelPositions(first: number, last: number): { open: number; close: number } {
  return { open: Math.max(0, first - 1), close: last };
}

/** Tokens that a span of so many words may have, for text without white space. */
export function mostTokens(words: number): number {
  return 4 * words;
}
