/** @file Normalisation ops. */
import type { GraphBuilder, Value } from "../builder.js";
import type { VjpRules } from "../vjp.js";
import { add, div, mul, scale, sqrt, sub } from "./elementwise.js";
import { reduceMean, reduceSumSquare, unbroadcast } from "./reduction.js";
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

/** Gradients of norms. With r = 1 / rms(x) and h = gradient · weight: dx = r (h − x r² mean(h x)). */
export const NORMALIZATION_VJPS: VjpRules = {
  SimplifiedLayerNormalization: ({ graph, node, inputs, gradient, needs }) => {
    const [x, weight] = inputs as [Value, Value];
    const size = staticSize(graph, node.opType, x, -1);
    const epsilon = graph.floats([Number(node.attributes["epsilon"])], []);
    // The op could return r itself, but not on WebGPU.
    const meanSquare = add(graph, scale(graph, reduceSumSquare(graph, x, [-1]), 1 / size), epsilon);
    const inverse = div(graph, graph.floats([1], []), sqrt(graph, meanSquare));
    const byX = (): Value => {
      const weighted = mul(graph, gradient, weight);
      const projection = reduceMean(graph, mul(graph, weighted, x), [-1], true);
      const share = div(graph, projection, meanSquare);
      return mul(graph, sub(graph, weighted, mul(graph, x, share)), inverse);
    };
    const byWeight = (): Value => unbroadcast(graph, mul(graph, gradient, mul(graph, x, inverse)), weight);
    return [needs(0) ? byX() : undefined, needs(1) ? byWeight() : undefined];
  },
};
