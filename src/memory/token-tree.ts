/** @file Which tokens see which where several continuations share a run. */
import type { Visibility } from "./method.js";

/**
 * Tokens that do not simply follow one another: several continuations of one input, side by side in one run. Each token
 * stands behind those that it sees.
 */
export interface TokenTree {
  /** Places after the last token of the session, from 0 on. */
  offsets: readonly number[];
  /** Whether new token `query` may see new token `key`. */
  sees: (query: number, key: number) => boolean;
}

/**
 * What a method lets tokens of a tree see, cut down to the tree.
 * @param past number of cached slots, before which the tree has no say
 * @param visible what the method lets them see; default: everything
 */
export function withinTree({ sees }: TokenTree, past: number, visible: Visibility | undefined): Visibility {
  return (query, key) => (key < past || sees(query, key - past)) && (visible?.(query, key) ?? true);
}
