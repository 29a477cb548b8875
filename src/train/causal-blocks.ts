/**
 * @file Blocks of tokens in the rows of a training graph. No token sees a later one, so the queries of a block need only
 * meet the keys up to its end: with n blocks, (n + 1) / 2n of the pairs are left.
 */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { slice } from "../graph/ops/movement.js";
import type { Device } from "../runtime/device.js";

/** Tokens [start, end) of a row. */
export interface TokenBlock {
  start: number;
  end: number;
}

/**
 * Tokens of a block, as nearly as a row's length allows. More and smaller blocks leave fewer pairs, but each copies the
 * keys and values that it sees, and has kernels of its own to start.
 */
export const TOKENS_OF_BLOCK = 256;

/** The same on a GPU, which copies slowly and starts every kernel at a cost: of 768 tokens, two blocks beat three. */
const TOKENS_OF_GPU_BLOCK = 320;

/** Ends of blocks are multiples of this, so that kernels can read several elements at once, and mask words stay whole. */
const ALIGNMENT = 16;

/** How many blocks suit a row of `seq` tokens on a device. */
export function blockCount(seq: number, device: Device): number {
  return Math.max(1, Math.round(seq / (device === "cpu" ? TOKENS_OF_BLOCK : TOKENS_OF_GPU_BLOCK)));
}

/**
 * The blocks of a row of `seq` tokens, in order, as even as whole multiples of 16 tokens allow; fewer than `count` where
 * rows are too short for that.
 */
export function causalBlocks(seq: number, count: number = blockCount(seq, "cpu")): readonly TokenBlock[] {
  const even = Array.from({ length: count - 1 }, (_, block) => ((block + 1) * seq) / count);
  const inner = even.map((end) => ALIGNMENT * Math.round(end / ALIGNMENT)).filter((end) => end > 0 && end < seq);
  const ends = [...new Set([...inner, seq])];
  return ends.map((end, block) => ({ start: ends[block - 1] ?? 0, end }));
}

/** The tokens of a block along `axis` of `x`. */
export function blockOf(graph: GraphBuilder, x: Value, axis: number, { start, end }: TokenBlock): Value {
  return x.shape[axis] === end - start ? x : slice(graph, x, axis, start, end - start);
}

/** The tokens that a block sees, those up to its end, along `axis` of `x`. */
export function upToEnd(graph: GraphBuilder, x: Value, axis: number, { end }: TokenBlock): Value {
  return blockOf(graph, x, axis, { start: 0, end });
}
