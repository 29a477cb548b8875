/** @file Elementwise ops: one output element from the matching elements of the inputs, with broadcasting. */
import type { DType } from "../../tensor/dtype.js";
import type { GraphBuilder, Value } from "../builder.js";
import type { VjpRule, VjpRules } from "../vjp.js";
import { unbroadcast } from "./reduction.js";
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

/** a − b */
export const sub = (graph: GraphBuilder, a: Value, b: Value): Value => binary(graph, "Sub", a, b);

/** a · b, elementwise */
export const mul = (graph: GraphBuilder, a: Value, b: Value): Value => binary(graph, "Mul", a, b);

/** a / b, elementwise */
export const div = (graph: GraphBuilder, a: Value, b: Value): Value => binary(graph, "Div", a, b);

/** The larger of a and b; treated as a constant by differentiation */
export const max = (graph: GraphBuilder, a: Value, b: Value): Value => binary(graph, "Max", a, b);

/** The smaller of a and b; treated as a constant by differentiation */
export const min = (graph: GraphBuilder, a: Value, b: Value): Value => binary(graph, "Min", a, b);

/** x · factor */
export const scale = (graph: GraphBuilder, x: Value, factor: number): Value =>
  mul(graph, x, graph.floats([factor], [], x.dtype));

/** eˣ */
export const exp = (graph: GraphBuilder, x: Value): Value => unary(graph, "Exp", x);

/** ln x */
export const log = (graph: GraphBuilder, x: Value): Value => unary(graph, "Log", x);

/** √x */
export const sqrt = (graph: GraphBuilder, x: Value): Value => unary(graph, "Sqrt", x);

/** The largest whole number that is not above x; treated as a constant by differentiation */
export const floor = (graph: GraphBuilder, x: Value): Value => unary(graph, "Floor", x);

/**
 * gate · sigmoid(gate) · up (Shazeer 2020). With s = sigmoid(gate) and y the output, the derivative of y by the gate is
 * y + s · (up − y): few passes over all elements.
 */
export function swiglu(graph: GraphBuilder, gate: Value, up: Value): Value {
  const [active] = graph.node({
    opType: "Mul",
    inputs: [gate, unary(graph, "Sigmoid", gate)],
    outputs: [gate],
    // Only the product below reads this, and what it hands down is the gradient by the gate.
    vjp: ({ gradient }) => [gradient, undefined],
  });
  return graph.node({
    opType: "Mul",
    inputs: [active, up],
    outputs: [up],
    vjp: ({ inputs, output, gradient, needs }) => {
      const [silued, linear] = inputs as [Value, Value];
      const sigmoid = graph.makerOf(silued)?.inputValues[1] as Value;
      const byGate = (): Value =>
        mul(graph, gradient, add(graph, output, mul(graph, sigmoid, sub(graph, linear, output))));
      return [needs(0) ? byGate() : undefined, needs(1) ? mul(graph, gradient, silued) : undefined];
    },
  })[0] as Value;
}

/** GELU (Hendrycks and Gimpel 2016) with the exact error function, or its tanh approximation */
export function gelu(graph: GraphBuilder, x: Value, approximate: "none" | "tanh"): Value {
  if (graph.form === "fused") {
    return graph.node({ opType: "Gelu", inputs: [x], attributes: { approximate }, outputs: [x] })[0] as Value;
  }
  const inner =
    approximate === "none"
      ? unary(graph, "Erf", scale(graph, x, Math.SQRT1_2))
      : unary(
          graph,
          "Tanh",
          scale(graph, add(graph, x, scale(graph, mul(graph, x, mul(graph, x, x)), 0.044715)), Math.sqrt(2 / Math.PI)),
        );
  return mul(graph, scale(graph, x, 0.5), add(graph, inner, graph.floats([1], [], x.dtype)));
}

/** tanh(x / limit) · limit, which keeps logits within ±limit */
export function softcap(graph: GraphBuilder, x: Value, limit: number): Value {
  return scale(graph, unary(graph, "Tanh", scale(graph, x, 1 / limit)), limit);
}

/** 1 where a equals b, else 0, as float32 */
export function equals(graph: GraphBuilder, a: Value, b: Value): Value {
  const shape = broadcastShapes(graph, "Equal", a, b);
  const [same] = graph.node({ opType: "Equal", inputs: [a, b], outputs: [{ dtype: "bool", shape }] });
  return cast(graph, same as Value, "float32");
}

/** `x` converted to another element type; `vjp` in place of the gradient converted back */
export function cast(graph: GraphBuilder, x: Value, dtype: DType, vjp?: VjpRule): Value {
  if (x.dtype === dtype) return x;
  const to = { float32: 1n, uint8: 2n, int8: 3n, int32: 6n, int64: 7n, bool: 9n, float16: 10n, bfloat16: 16n }[dtype];
  return graph.node({
    opType: "Cast",
    inputs: [x],
    attributes: { to },
    outputs: [{ dtype, shape: x.shape }],
    ...(vjp === undefined ? {} : { vjp }),
  })[0] as Value;
}

/** Gradients of elementwise ops. */
export const ELEMENTWISE_VJPS: VjpRules = {
  Identity: ({ gradient }) => [gradient],
  Cast: ({ graph, inputs: [x], gradient }) => [cast(graph, gradient, (x as Value).dtype)],
  Add: ({ graph, inputs, gradient, needs }) =>
    inputs.map((input, i) => (needs(i) ? unbroadcast(graph, gradient, input as Value) : undefined)),
  Sub: ({ graph, inputs: [a, b], gradient, needs }) => [
    needs(0) ? unbroadcast(graph, gradient, a as Value) : undefined,
    needs(1) ? unbroadcast(graph, scale(graph, gradient, -1), b as Value) : undefined,
  ],
  Mul: ({ graph, inputs: [a, b], gradient, needs }) => [
    needs(0) ? unbroadcast(graph, mul(graph, gradient, b as Value), a as Value) : undefined,
    needs(1) ? unbroadcast(graph, mul(graph, gradient, a as Value), b as Value) : undefined,
  ],
  Div: ({ graph, inputs: [a, b], gradient, output, needs }) => [
    needs(0) ? unbroadcast(graph, div(graph, gradient, b as Value), a as Value) : undefined,
    needs(1)
      ? unbroadcast(graph, scale(graph, div(graph, mul(graph, gradient, output), b as Value), -1), b as Value)
      : undefined,
  ],
  Exp: ({ graph, gradient, output }) => [mul(graph, gradient, output)],
  Log: ({ graph, inputs: [x], gradient }) => [div(graph, gradient, x as Value)],
  Sqrt: ({ graph, gradient, output }) => [scale(graph, div(graph, gradient, output), 0.5)],
  Sigmoid: ({ graph, gradient, output }) => [
    mul(graph, gradient, mul(graph, output, sub(graph, graph.floats([1], [], output.dtype), output))),
  ],
  Tanh: ({ graph, gradient, output }) => [
    mul(graph, gradient, sub(graph, graph.floats([1], [], output.dtype), mul(graph, output, output))),
  ],
  Erf: ({ graph, inputs: [x], gradient }) => {
    const square = mul(graph, x as Value, x as Value);
    return [mul(graph, gradient, scale(graph, exp(graph, scale(graph, square, -1)), 2 / Math.sqrt(Math.PI)))];
  },
};
