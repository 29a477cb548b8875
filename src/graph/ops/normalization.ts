/** @file Normalisation ops. */
import type { GraphBuilder, Value } from "../builder.js";
import type { VjpRules } from "../vjp.js";
import { add, cast, div, mul, scale, sqrt, sub } from "./elementwise.js";
import { reduceSum, reduceSumSquare, unbroadcast } from "./reduction.js";
import { staticSize } from "./shapes.js";

/** x / sqrt(mean(x²) + epsilon) · weight over the last axis (Zhang and Sennrich 2019). */
export function rmsNorm(graph: GraphBuilder, x: Value, weight: Value, epsilon: number): Value {
  const opType = "SimplifiedLayerNormalization";
  if (staticSize(graph, opType, x, -1) !== staticSize(graph, opType, weight, 0)) {
    throw graph.shapeError(opType, "weight does not fit the last axis", [x, weight]);
  }
  return graph.node({
    opType,
    inputs: [x, weight],
    attributes: { axis: -1n, epsilon, stash_type: 1n },
    outputs: [x],
  })[0] as Value;
}

/**
 * The norm of x + skip, and that sum, in one kernel: a residual connection and the norm that reads it.
 * @param x [batch, seq, features], or without the batch; `skip` likewise
 */
export function skipRmsNorm(
  graph: GraphBuilder,
  x: Value,
  skip: Value,
  weight: Value,
  epsilon: number,
): { normed: Value; sum: Value } {
  const opType = "SkipSimplifiedLayerNormalization";
  if (
    staticSize(graph, opType, x, -1) !== staticSize(graph, opType, weight, 0) ||
    x.shape.join() !== skip.shape.join()
  ) {
    throw graph.shapeError(opType, "needs two equal inputs, and a weight that fits their last axis", [x, skip, weight]);
  }
  const [normed, sum] = graph.node({
    opType,
    domain: "com.microsoft",
    inputs: [x, skip, weight],
    attributes: { epsilon },
    outputs: [x, undefined, undefined, x],
  });
  return { normed: normed as Value, sum: sum as Value };
}

/** A norm's inputs and output, and the gradient by the output. */
interface NormCall {
  x: Value;
  weight: Value;
  normed: Value;
  gradient: Value;
  epsilon: number;
}

/**
 * Gradients of a norm of x. With h = √n · gradient · weight and s = Σ x² + n · epsilon:
 * dx = (h − x · Σ h x / s) / √s.
 */
function normGradients(
  graph: GraphBuilder,
  call: NormCall,
  needs: { x: boolean; weight: boolean },
): { byX: Value | undefined; byWeight: Value | undefined } {
  const { x, weight, gradient, epsilon } = call;
  const size = staticSize(graph, "SimplifiedLayerNormalization", x, -1);
  // The op could return 1 / √s itself, but not on WebGPU.
  const wide = cast(graph, x, "float32");
  const squares = add(graph, reduceSumSquare(graph, wide, [-1]), graph.floats([size * epsilon], []));
  const root = sqrt(graph, squares);
  const byX = (): Value => {
    if (x.dtype === "float16") return halfGradient(graph, call, { size, squares, root });
    const weighted = mul(graph, gradient, scale(graph, weight, Math.sqrt(size)));
    const share = div(graph, reduceSum(graph, mul(graph, weighted, x), [-1], true), squares);
    return div(graph, sub(graph, weighted, mul(graph, x, share)), root);
  };
  const byWeight = (): Value => {
    const normed = scale(graph, div(graph, wide, root), Math.sqrt(size));
    return unbroadcast(graph, mul(graph, cast(graph, gradient, "float32"), normed), weight);
  };
  return { byX: needs.x ? byX() : undefined, byWeight: needs.weight ? byWeight() : undefined };
}

/**
 * The gradient by x of half floats. Σ gradient · weight · x is taken as Σ gradient · normed · √(s / n), as the normed
 * values are about 1 in size where products with x leave the range; sums are float32.
 */
function halfGradient(
  graph: GraphBuilder,
  { x, weight, normed, gradient }: NormCall,
  { size, squares, root }: { size: number; squares: Value; root: Value },
): Value {
  const sums = reduceSum(graph, cast(graph, mul(graph, gradient, normed), "float32"), [-1], true);
  const share = cast(graph, div(graph, sums, squares), x.dtype);
  const inverse = cast(graph, div(graph, graph.floats([Math.sqrt(size)], []), root), x.dtype);
  return sub(graph, mul(graph, mul(graph, gradient, weight), inverse), mul(graph, x, share));
}

/** Gradients of norms. */
export const NORMALIZATION_VJPS: VjpRules = {
  SimplifiedLayerNormalization: ({ graph, node, inputs, output, gradient, needs }) => {
    const [x, weight] = inputs as [Value, Value];
    const epsilon = Number(node.attributes["epsilon"]);
    const call = { x, weight, normed: output, gradient, epsilon };
    const { byX, byWeight } = normGradients(graph, call, { x: needs(0), weight: needs(1) });
    return [byX, byWeight];
  },
  SkipSimplifiedLayerNormalization: ({ graph, node, inputs, outputs, gradients, needs }) => {
    const weight = inputs[2] as Value;
    const [byNormed, , , bySum] = gradients;
    const either = needs(0) || needs(1);
    if (byNormed === undefined) return [bySum, bySum, undefined];
    const { byX, byWeight } = normGradients(
      graph,
      {
        x: outputs[3] as Value,
        weight,
        normed: outputs[0] as Value,
        gradient: byNormed,
        epsilon: Number(node.attributes["epsilon"]),
      },
      { x: either, weight: needs(2) },
    );
    const whole = byX !== undefined && bySum !== undefined ? add(graph, byX, bySum) : byX;
    return [whole, whole, byWeight];
  },
};
