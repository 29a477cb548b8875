/** @file Reductions over axes, and the softmax that is built on one. */
import type { GraphBuilder, Value } from "../builder.js";
import type { VjpRule, VjpRules } from "../vjp.js";
import { cast, log, mul, scale, sub } from "./elementwise.js";
import { expand, reshape } from "./movement.js";
import { resolveAxis, staticSize } from "./shapes.js";

function reduce(
  graph: GraphBuilder,
  opType: string,
  x: Value,
  axes: readonly number[],
  keepDims: boolean,
  ownVjp?: VjpRule,
): Value {
  const resolved = axes.map((axis) => resolveAxis(graph, opType, x, axis));
  const shape = x.shape.flatMap((dim, axis) => (!resolved.includes(axis) ? [dim] : keepDims ? [1] : []));
  // Which axes are gone cannot be told from the shapes alone where two axes have one size.
  const kept = x.shape.map((dim, axis) => (resolved.includes(axis) ? 1 : dim));
  const spread: VjpRule = ({ gradient }) => [expand(graph, reshape(graph, gradient, kept), x.shape)];
  const spreadMean: VjpRule = (call) => {
    const count = resolved.reduce((product, axis) => product * staticSize(graph, opType, x, axis), 1);
    return spread({ ...call, gradient: scale(graph, call.gradient, 1 / count) });
  };
  return graph.node({
    opType,
    inputs: [x, graph.integers(resolved)],
    attributes: { keepdims: keepDims ? 1n : 0n },
    outputs: [{ dtype: x.dtype, shape }],
    vjp: ownVjp ?? { ReduceSum: spread, ReduceMean: spreadMean }[opType],
  })[0] as Value;
}

/** Sum over axes */
export const reduceSum = (graph: GraphBuilder, x: Value, axes: readonly number[], keepDims: boolean): Value =>
  reduce(graph, "ReduceSum", x, axes, keepDims);

/** Mean over axes */
export const reduceMean = (graph: GraphBuilder, x: Value, axes: readonly number[], keepDims: boolean): Value =>
  reduce(graph, "ReduceMean", x, axes, keepDims);

/** Maximum over axes; treated as a constant by differentiation, which is right where it only shifts a softmax */
export const reduceMax = (graph: GraphBuilder, x: Value, axes: readonly number[], keepDims: boolean): Value =>
  reduce(graph, "ReduceMax", x, axes, keepDims);

/** Sum of squares over axes, kept with size 1 */
export const reduceSumSquare = (graph: GraphBuilder, x: Value, axes: readonly number[]): Value =>
  reduce(graph, "ReduceSumSquare", x, axes, true);

/** exp(x) / Σ exp(x) over the last axis */
export function softmax(graph: GraphBuilder, x: Value): Value {
  return graph.node({ opType: "Softmax", inputs: [x], attributes: { axis: -1n }, outputs: [x] })[0] as Value;
}

/**
 * log Σ exp(x) over the last axis, kept with size 1, and the softmax that is its gradient. Computed from the softmax:
 * with the largest x and its probability, log Σ exp(x) = max(x) − log max(p), where max(p) is at least 1 / size.
 */
export function logSumExp(graph: GraphBuilder, x: Value): { probabilities: Value; normalizer: Value } {
  const probabilities = softmax(graph, x);
  // The largest value carries the gradient of the whole; the largest probability is a constant to it.
  const largest = reduce(graph, "ReduceMax", x, [-1], true, ({ gradient }) => [mul(graph, gradient, probabilities)]);
  return { probabilities, normalizer: sub(graph, largest, log(graph, reduceMax(graph, probabilities, [-1], true))) };
}

/** Σ a · b over the last axis, kept with size 1. Its gradient needs no copy of itself along that axis. */
export function rowProduct(graph: GraphBuilder, a: Value, b: Value): Value {
  if (a.shape.join() !== b.shape.join()) throw graph.shapeError("Mul", "needs two equal shapes", [a, b]);
  const [product] = graph.node({
    opType: "Mul",
    inputs: [a, b],
    outputs: [a],
    // Nothing else reads the product, so the sum may hand it a gradient of size 1 along the axis.
    vjp: ({ inputs, gradient, needs }) =>
      [inputs[1], inputs[0]].map((other, i) => (needs(i) ? mul(graph, gradient, other as Value) : undefined)),
  });
  return reduce(graph, "ReduceSum", product as Value, [-1], true, ({ gradient }) => [gradient]);
}

/**
 * Sums a gradient over the axes along which `target` was broadcast, giving `target`'s shape. Half floats are summed, and
 * the sum returned, as float32.
 */
export function unbroadcast(graph: GraphBuilder, gradient: Value, target: Value): Value {
  const extra = gradient.shape.length - target.shape.length;
  const axes = gradient.shape.flatMap((dim, axis) =>
    axis < extra || (target.shape[axis - extra] === 1 && dim !== 1) ? [axis] : [],
  );
  if (axes.length === 0) return gradient;
  const wide = gradient.dtype === "float16" ? cast(graph, gradient, "float32") : gradient;
  const summed = reduceSum(graph, wide, axes, true);
  return extra === 0 ? summed : reshape(graph, summed, target.shape);
}

/** Gradients of what is built on reductions; sums and means bring their own, as those need to know the axes. */
export const REDUCTION_VJPS: VjpRules = {
  Softmax: ({ graph, gradient, output }) => {
    const inner = reduceSum(graph, mul(graph, gradient, output), [-1], true);
    return [mul(graph, output, sub(graph, gradient, inner))];
  },
};
