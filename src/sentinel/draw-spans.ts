/** @file Random spans over the words of a text, until a chosen share of them is inside. */
import type { SeededRandom } from "../data/random.js";
import { PrecisError } from "../errors.js";
import type { Span } from "./sentinel-tokens.js";

/** Words of the shortest span; compressing one word into one slot gains nothing. */
const SHORTEST_SPAN = 2;

/** Texts of fewer words are left alone. */
const SHORTEST_TEXT = 30;

/** @throws PrecisError OPTION_INVALID for `longest`, the most words of a span, below 2 */
export function checkLongest(longest: number): void {
  if (Number.isInteger(longest) && longest >= SHORTEST_SPAN) return;
  const message = `Spans must be allowed at least ${SHORTEST_SPAN} words, not ${longest}.`;
  throw new PrecisError("OPTION_INVALID", message, { value: longest });
}

/**
 * The share of words to wrap so that the cache shrinks by `ratio`, although every span leaves a `<CR>` behind: ratio ·
 * m / (m − 1) for spans of m words on average. At most 1.
 * @throws PrecisError OPTION_INVALID for a ratio outside [0, 1) or `longest` below 2
 */
export function wrappedShare(ratio: number, longest: number): number {
  if (!(ratio >= 0 && ratio < 1)) {
    throw new PrecisError("OPTION_INVALID", `The ratio must be from 0 to below 1 and is ${ratio}.`, { value: ratio });
  }
  checkLongest(longest);
  const mean = (SHORTEST_SPAN + longest) / 2;
  return Math.min(1, (ratio * mean) / (mean - 1));
}

/**
 * Random spans of 2 to `longest` words that do not overlap, in order, with a share of `ratio` (corrected by
 * {@link wrappedShare}) of the words inside them, to the word or one less. Lengths are drawn first and then placed, every
 * placement being equally likely: trying places at random, as the authors do, cannot reach high shares.
 * @param words number of words; below 30 there are no spans
 * @throws PrecisError OPTION_INVALID as {@link wrappedShare}
 */
export function drawSpans(words: number, ratio: number, longest: number, random: SeededRandom): Span[] {
  let left = Math.floor(wrappedShare(ratio, longest) * words);
  if (words < SHORTEST_TEXT) return [];
  const lengths: number[] = [];
  while (left >= SHORTEST_SPAN) {
    const length = Math.min(left, random.between(SHORTEST_SPAN, longest));
    lengths.push(length);
    left -= length;
  }
  const free = words - lengths.reduce((sum, length) => sum + length, 0);
  // Each span is one of free + n places; the others are words outside.
  const places = Array.from({ length: free + lengths.length }, (_, place) => place);
  const chosen = random.sample(places, lengths.length).sort((a, b) => a - b);
  let inside = 0;
  return chosen.map((place, index) => {
    const start = place - index + inside;
    const length = lengths[index] as number;
    inside += length;
    return { start, end: start + length };
  });
}
