/**
 * @file Spans over all of a text whose tokens stay visible while they are recent, as rules about single tokens that
 * training and inference share. A token keeps sight of what local attention would show it (see `sparse-rules.ts`), less
 * one token for each `<CR>` it sees instead, so both cost the same number of slots: at every token, or, if tokens leave
 * spanwise, whenever a span has been compressed.
 */
import { checkLongest } from "./draw-spans.js";
import { mostTokens, type Span } from "./sentinel-tokens.js";
import { localStart } from "./sparse-rules.js";

/**
 * Where spans are in training text: drawn at random over the words; or all over it, its tokens leaving one by one
 * (recent) or, at the end of each span, many at once (spanwise).
 */
export const SPAN_PLACEMENTS = ["random", "recent", "spanwise"] as const;

/** See {@link SPAN_PLACEMENTS}. */
export type SpanPlacement = (typeof SPAN_PLACEMENTS)[number];

/** How tokens leave where spans are all over a text. */
export type Leaving = Exclude<SpanPlacement, "random">;

/** Words of a span at ratio r are at most this times 1 − r: an open span, about half of what a block of 256 tokens may keep. */
const OPEN_WORDS = 120;

/** … but at least this divided by 1 − r, so that `<CR>` leaves room for recent tokens, however long the text. */
const CLOSED_WORDS = 1.2;

/**
 * Words of a span at a ratio, at most `longest`. All of a span stays visible until it is closed. Where tokens leave one by
 * one an open span has its share in what may be kept, so spans are shorter where that is little; the shortest, 12 words,
 * are those of ratio 0.9.
 * @throws PrecisError OPTION_INVALID for `longest` below 2
 */
export function recentSpanWords(leaving: Leaving, ratio: number, longest: number): number {
  checkLongest(longest);
  if (leaving === "spanwise") return longest;
  const kept = 1 - ratio;
  const words = Math.round(Math.max(OPEN_WORDS * kept, CLOSED_WORDS / kept));
  return Math.min(longest, words);
}

/**
 * Consecutive spans of `words` words (and at most {@link mostTokens}) over a text. What is left at the end is a span that
 * is still open, even if it is full: only the next word would close it.
 * @param wordStarts indices at which words begin; tokens before the first stay outside
 * @param length tokens of the text
 */
export function recentSpans(wordStarts: readonly number[], length: number, words: number): Span[] {
  const starts = new Set(wordStarts);
  const spans: Span[] = [];
  let start = wordStarts[0] ?? length;
  let count = 1;
  for (let token = start + 1; token < length; token++) {
    const begins = starts.has(token);
    if ((begins && count === words) || token - start >= mostTokens(words)) {
      spans.push({ start, end: token });
      start = token;
      count = 1;
    } else if (begins) {
      count++;
    }
  }
  if (start < length) spans.push({ start, end: length });
  return spans;
}

/**
 * The first token that token `index` sees, as indices of text, which sentinels have no part in. From there on it sees
 * all; before, only the `<CR>` of closed spans. Spanwise, the open span does not count: what is seen beside it is what
 * the ratio leaves of the text before it.
 * @param closed spans closed before it
 * @param open where the span that it belongs to begins; `index` if to none
 */
export function recentStart(leaving: Leaving, index: number, closed: number, open: number, ratio: number): number {
  return Math.min(open, localStart(leaving === "spanwise" ? open : index, ratio) + closed);
}
