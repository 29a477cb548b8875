/** @file Elementwise ops: one output element from the matching elements of the inputs, with broadcasting. */
import type { DType } from "../../tensor/dtype.js";
import type { GraphBuilder, Value } from "../builder.js";
import { broadcastShapes } from "./shapes.js";

function unary(graph: GraphBuilder, opType: string, x: Value): Value {
  return graph.node({ opType, inputs: [x], outputs: [x] })[0] as Value;
}

function binary(graph: GraphBuilder, opType: string, a: Value, b: Value): Value {
  if (a.dtype !== b.dtype) throw graph.shapeError(opType, `mixes ${a.dtype} and ${b.dtype}`, [a, b]);
  const shape = broadcastShapes(graph, opType, a, b);
  return graph.node({ opType, inputs: [a, b], outputs: [{ dtype: a.dtype, shape }] })[0] as Value;
}

/** a + b */
export const add = (graph: GraphBuilder, a: Value, b: Value): Value => binary(graph, "Add", a, b);

/** a · b, elementwise */
export const mul = (graph: GraphBuilder, a: Value, b: Value): Value => binary(graph, "Mul", a, b);

/** x · sigmoid(x), also called swish */
export const silu = (graph: GraphBuilder, x: Value): Value => mul(graph, x, unary(graph, "Sigmoid", x));

/** GELU with the exact error function, or its tanh approximation */
export function gelu(graph: GraphBuilder, x: Value, approximate: "none" | "tanh"): Value {
  return graph.node({ opType: "Gelu", inputs: [x], attributes: { approximate }, outputs: [x] })[0] as Value;
}

/** tanh(x / limit) · limit, which keeps logits within ±limit */
export function softcap(graph: GraphBuilder, x: Value, limit: number): Value {
  return mul(graph, unary(graph, "Tanh", mul(graph, x, graph.floats([1 / limit]))), graph.floats([limit]));
}

/** `x` converted to another element type */
export function cast(graph: GraphBuilder, x: Value, dtype: DType): Value {
  if (x.dtype === dtype) return x;
  const to = { float32: 1n, uint8: 2n, int8: 3n, int32: 6n, int64: 7n, bool: 9n, float16: 10n, bfloat16: 16n }[dtype];
  return graph.node({
    opType: "Cast",
    inputs: [x],
    attributes: { to },
    outputs: [{ dtype, shape: x.shape }],
  })[0] as Value;
}
