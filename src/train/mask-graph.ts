/** @file Attention masks computed inside a graph from a few numbers per token, instead of being uploaded. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { add, equals, max, min, mul, scale, sub } from "../graph/ops/elementwise.js";
import { reshape } from "../graph/ops/movement.js";
import { MASKED_BIAS } from "./attention-mask.js";

/** 1 where a whole number is above 0, else 0. */
function isPositive(graph: GraphBuilder, x: Value): Value {
  return min(graph, max(graph, x, graph.floats([0], [])), graph.floats([1], []));
}

/** The additive bias of a mask of ones and zeros: 0 where it is 1, {@link MASKED_BIAS} where it is 0. */
export function biasOfMask(graph: GraphBuilder, mask: Value): Value {
  return scale(graph, sub(graph, graph.floats([1], []), mask), MASKED_BIAS);
}

/** row − column of every pair of tokens, [1, seq, seq]. */
export function tokenDistance(graph: GraphBuilder, seq: number): Value {
  const index = Array.from({ length: seq }, (_, token) => token);
  return sub(graph, graph.floats(index, [1, seq, 1]), graph.floats(index, [1, 1, seq]));
}

/**
 * The bias [batch, 1, seq, seq] of plain causal attention within samples that share a row.
 * @param samples [batch, seq] float32: equal numbers belong to one sample, whose tokens stand side by side
 * @param window how many tokens are visible, the token itself included; default all of the sample
 */
export function causalSampleBias(graph: GraphBuilder, samples: Value, window?: number): Value {
  const [batch, seq] = samples.shape as [number, number];
  const same = equals(graph, reshape(graph, samples, [batch, seq, 1]), reshape(graph, samples, [batch, 1, seq]));
  const distance = tokenDistance(graph, seq);
  const one = graph.floats([1], []);
  let visible = mul(graph, same, isPositive(graph, add(graph, distance, one)));
  if (window !== undefined) {
    visible = mul(graph, visible, isPositive(graph, sub(graph, graph.floats([window], []), distance)));
  }
  return reshape(graph, biasOfMask(graph, visible), [batch, 1, seq, seq]);
}
