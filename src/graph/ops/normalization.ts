/** @file Normalisation ops. */
import type { GraphBuilder, Value } from "../builder.js";
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
