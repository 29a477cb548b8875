/** @file How a policy says which tokens become a span: the seam between deciding and compressing. */
import type { TokenWords } from "../../text/token-words.js";

/** The first tokens of what is undecided: to be compressed, or to be kept for good. */
export interface Cut {
  tokens: number;
  compress: boolean;
}

/** What a policy may look at. */
export interface SpanContext {
  words: TokenWords;
  /** Text tokens that are neither compressed nor kept for good yet, the oldest first. */
  pending: readonly number[];
  /** The token that will be read next. */
  next: number;
  /** Spans decided upon so far, kept ones included. */
  decided: number;
}

/** Decides before a token is read; undefined leaves everything as it is. It is asked again until it does. */
export type SpanPolicy = (context: SpanContext) => Cut | undefined;

/** Options that policies share. */
export interface SpanOptions {
  /** Words of a span, or most words of one. */
  span: number;
  /** Share of the cache to do without. */
  ratio: number;
  /** Latest tokens that are not compressed. */
  window: number;
}
