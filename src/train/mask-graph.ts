/** @file Attention masks computed inside a graph from a few numbers per token, instead of being uploaded. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { add, equals, exp, floor, max, min, mul, scale, sub } from "../graph/ops/elementwise.js";
import { reshape, slice } from "../graph/ops/movement.js";
import { MASKED_BIAS } from "./attention-mask.js";
import { AVERAGING_PARTS, READS_NOTHING } from "./averaging-groups.js";
import { blockOf, upToEnd, type TokenBlock } from "./causal-blocks.js";
import { PACKED_BITS, packedWords } from "./packed-mask.js";

/** 1 where a whole number is above 0, else 0. */
function isPositive(graph: GraphBuilder, x: Value): Value {
  return min(graph, max(graph, x, graph.floats([0], [])), graph.floats([1], []));
}

/** The additive bias of a mask of ones and zeros: 0 where it is 1, {@link MASKED_BIAS} where it is 0. */
export function biasOfMask(graph: GraphBuilder, mask: Value): Value {
  return scale(graph, sub(graph, graph.floats([1], []), mask), MASKED_BIAS);
}

/** row − column for the tokens of a block as rows and those up to its end as columns, [1, rows, end]. */
export function tokenDistance(graph: GraphBuilder, { start, end }: TokenBlock): Value {
  const index = Array.from({ length: end }, (_, token) => token);
  return sub(graph, graph.floats(index.slice(start), [1, end - start, 1]), graph.floats(index, [1, 1, end]));
}

/** Of [batch, seq], the tokens of a block as rows: [batch, rows, 1]. */
function rowsOf(graph: GraphBuilder, x: Value, block: TokenBlock): Value {
  return reshape(graph, blockOf(graph, x, 1, block), [x.shape[0] as number, block.end - block.start, 1]);
}

/** Of [batch, seq], the tokens that a block sees as columns: [batch, 1, end]. */
function columnsOf(graph: GraphBuilder, x: Value, block: TokenBlock): Value {
  return reshape(graph, upToEnd(graph, x, 1, block), [x.shape[0] as number, 1, block.end]);
}

/**
 * The bias [batch, 1, rows, end] of plain causal attention within samples that share a row, for the tokens of a block and
 * those up to its end.
 * @param samples [batch, seq] float32: equal numbers belong to one sample, whose tokens stand side by side
 * @param window how many tokens are visible, the token itself included; default all of the sample
 */
export function causalSampleBias(graph: GraphBuilder, samples: Value, block: TokenBlock, window?: number): Value {
  const same = equals(graph, rowsOf(graph, samples, block), columnsOf(graph, samples, block));
  const distance = tokenDistance(graph, block);
  const one = graph.floats([1], []);
  let visible = mul(graph, same, isPositive(graph, add(graph, distance, one)));
  if (window !== undefined) {
    visible = mul(graph, visible, isPositive(graph, sub(graph, graph.floats([window], []), distance)));
  }
  return asBias(graph, visible);
}

/** {@link biasOfMask} of [batch, rows, end] as attention takes it, [batch, 1, rows, end]. */
export function asBias(graph: GraphBuilder, mask: Value): Value {
  const [batch, rows, end] = mask.shape as [number, number, number];
  return reshape(graph, biasOfMask(graph, mask), [batch, 1, rows, end]);
}

/**
 * A mask of ones and zeros [batch, rows, end] from its packed form, for the tokens of a block and those up to its end.
 * @param whole [batch, seq, words] float32, see `packed-mask.ts`
 */
export function maskFromBits(graph: GraphBuilder, whole: Value, block: TokenBlock): Value {
  // Cut while sixteen elements are one.
  const packed = blockOf(graph, upToEnd(graph, whole, 2, { ...block, end: packedWords(block.end) }), 1, block);
  const [batch, rows, words] = packed.shape as [number, number, number];
  const halves = Array.from({ length: PACKED_BITS }, (_, bit) => 2 ** -bit);
  // Powers of two only move the point, so nothing is rounded.
  const shifted = floor(
    graph,
    mul(graph, reshape(graph, packed, [batch, rows, words, 1]), graph.floats(halves, [1, 1, 1, PACKED_BITS])),
  );
  const bits = sub(graph, shifted, scale(graph, floor(graph, scale(graph, shifted, 0.5)), 2));
  return upToEnd(graph, reshape(graph, bits, [batch, rows, words * PACKED_BITS]), 2, block);
}

/**
 * `mask` [batch, rows, end] of a block without what lies outside of a sliding window.
 * @param positions [batch, seq] float32
 * @param bound [batch, seq], 1 at tokens that are only seen from positions less than `window` after them, else 0
 */
export function withinWindow(
  graph: GraphBuilder,
  mask: Value,
  block: TokenBlock,
  { positions, bound, window }: { positions: Value; bound: Value; window: number },
): Value {
  const distance = sub(graph, rowsOf(graph, positions, block), columnsOf(graph, positions, block));
  const near = isPositive(graph, sub(graph, graph.floats([window], []), distance));
  const free = sub(graph, graph.floats([1], []), columnsOf(graph, bound, block));
  return mul(graph, mask, max(graph, near, free));
}

/**
 * The matrix [batch, seq, seq] that replaces keys and values by averages; tokens that are not averaged keep their own.
 * @param groups [parts, batch, seq] float32, in the order of `AVERAGING_PARTS`
 */
export function averagesFromGroups(graph: GraphBuilder, groups: Value): Value {
  const [, batch, seq] = groups.shape as [number, number, number];
  const part = (name: (typeof AVERAGING_PARTS)[number], shape: number[]): Value =>
    reshape(graph, slice(graph, groups, 0, AVERAGING_PARTS.indexOf(name), 1), shape);
  const row = (name: (typeof AVERAGING_PARTS)[number]): Value => part(name, [batch, seq, 1]);
  const column = (name: (typeof AVERAGING_PARTS)[number]): Value => part(name, [batch, 1, seq]);
  const distance = tokenDistance(graph, { start: 0, end: seq });
  const past = isPositive(graph, add(graph, distance, graph.floats([1], [])));
  const taken = mul(graph, equals(graph, row("reads"), column("offers")), past);
  const lag = max(graph, sub(graph, row("steps"), column("steps")), graph.floats([0], []));
  const faded = exp(graph, scale(graph, mul(graph, row("rates"), lag), -1));
  const weights = mul(graph, mul(graph, row("rowWeights"), column("columnWeights")), mul(graph, taken, faded));
  const keeps = equals(graph, row("reads"), graph.floats([READS_NOTHING], []));
  return add(graph, weights, mul(graph, keeps, equals(graph, distance, graph.floats([0], []))));
}
