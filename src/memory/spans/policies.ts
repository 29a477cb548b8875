/**
 * @file Policies that cut a stream into spans. Control tokens (the beginning of text, the frame of a message) are never
 * part of a span: they are kept, and what comes before them is over.
 */
import { mostTokens } from "../../sentinel/sentinel-tokens.js";
import type { Cut, SpanContext, SpanOptions, SpanPolicy } from "./span-policy.js";

/** Leading control tokens as a cut, if there are any. */
function leadingSpecials({ words, pending }: SpanContext): Cut | undefined {
  let tokens = 0;
  while (tokens < pending.length && words.isSpecial(pending[tokens] as number)) tokens++;
  return tokens === 0 ? undefined : { tokens, compress: false };
}

/** Whether what is pending is a span of `span` words, or can become no longer one. */
function isFull({ words, pending, next }: SpanContext, span: number): boolean {
  if (words.isSpecial(next) || pending.length >= mostTokens(span)) return true;
  return words.startsWord(next, pending.at(-1)) && words.count(pending) >= span;
}

/** Compresses all that is pending once `isOver`. */
function whenever(isOver: (context: SpanContext) => boolean, compress: (decided: number) => boolean): SpanPolicy {
  return (context) => {
    const { pending, decided } = context;
    if (pending.length === 0) return undefined;
    const specials = leadingSpecials(context);
    if (specials !== undefined) return specials;
    return isOver(context) ? { tokens: pending.length, compress: compress(decided) } : undefined;
  };
}

/** Spans of a fixed number of words, all of them compressed. */
export function fixedSpans({ span }: SpanOptions): SpanPolicy {
  return whenever(
    (context) => isFull(context, span),
    () => true,
  );
}

/** Spans of a fixed number of words, of which as many are compressed, evenly, as make the cache smaller by `ratio`. */
export function everyKthSpan({ span, ratio }: SpanOptions): SpanPolicy {
  const share = span < 2 ? 0 : Math.min(1, (ratio * span) / (span - 1));
  return whenever(
    (context) => isFull(context, span),
    (decided) => Math.floor((decided + 1) * share) > Math.floor(decided * share),
  );
}

/** Sentence by sentence; a sentence of more than `span` words is several spans. */
export function sentences({ span }: SpanOptions): SpanPolicy {
  const isOver = (context: SpanContext): boolean => {
    const { words, pending, next } = context;
    const last = pending.at(-1) as number;
    return isFull(context, span) || (words.startsWord(next, last) && words.endsSentence(last, next));
  };
  return whenever(isOver, () => true);
}

/**
 * Everything older than the latest `window` tokens, in spans of `span` words. Tokens inside the window have seen what is
 * compressed later, unlike in training; tokens after that see `<CR>` only.
 */
export function olderThanWindow({ span, window }: SpanOptions): SpanPolicy {
  return (context) => {
    const { words, pending } = context;
    const specials = leadingSpecials(context);
    if (specials !== undefined) return specials;
    let tokens = 0;
    let count = 0;
    for (; tokens < Math.min(pending.length, mostTokens(span)); tokens++) {
      const id = pending[tokens] as number;
      const starts = tokens === 0 || words.startsWord(id, pending[tokens - 1]);
      if (words.isSpecial(id) || (starts && count === span)) break;
      if (starts) count++;
    }
    // Without a token after it, a span may still grow.
    const isOver = tokens < pending.length && pending.length - tokens >= window;
    return isOver ? { tokens, compress: true } : undefined;
  };
}
