/** @file Matrix products. */
import type { GraphBuilder, Value } from "../builder.js";
import type { VjpRule, VjpRules } from "../vjp.js";
import { div, max, mul } from "./elementwise.js";
import { reshape, transpose } from "./movement.js";
import { reduceMax, unbroadcast } from "./reduction.js";
import { broadcastShapes, expectRank, resolveAxis, staticSize } from "./shapes.js";

/** a · b over the last two axes, leading axes broadcast: [..., m, k] · [..., k, n] → [..., m, n] */
export function matmul(graph: GraphBuilder, a: Value, b: Value): Value {
  const inner = a.shape[resolveAxis(graph, "MatMul", a, -1)];
  const rows = a.shape[resolveAxis(graph, "MatMul", a, -2)] as number | string;
  if (inner !== b.shape[resolveAxis(graph, "MatMul", b, -2)]) {
    throw graph.shapeError("MatMul", "inner axes differ", [a, b]);
  }
  if (a.dtype !== b.dtype) throw graph.shapeError("MatMul", `mixes ${a.dtype} and ${b.dtype}`, [a, b]);
  const leading = broadcastShapes(
    graph,
    "MatMul",
    { ...a, shape: a.shape.slice(0, -2) },
    { ...b, shape: b.shape.slice(0, -2) },
  );
  const shape = [...leading, rows, b.shape[b.shape.length - 1] as number | string];
  return graph.node({ opType: "MatMul", inputs: [a, b], outputs: [{ dtype: a.dtype, shape }] })[0] as Value;
}

/** x · weightᵀ for a weight stored as checkpoints store it: [..., in] · [out, in]ᵀ → [..., out] */
export function linear(graph: GraphBuilder, x: Value, weight: Value): Value {
  expectRank(graph, "FusedMatMul", weight, 2);
  const inner = x.shape[resolveAxis(graph, "FusedMatMul", x, -1)];
  if (inner !== weight.shape[1]) throw graph.shapeError("FusedMatMul", "inner axes differ", [x, weight]);
  if (graph.form === "primitive") return matmul(graph, x, transpose(graph, weight, [1, 0]));
  const shape = [...x.shape.slice(0, -1), weight.shape[0] as number | string];
  return graph.node({
    opType: "FusedMatMul",
    domain: "com.microsoft",
    inputs: [x, weight],
    attributes: { transB: 1n },
    outputs: [{ dtype: x.dtype, shape }],
  })[0] as Value;
}

/** A block-quantised weight [out, in]: `blocks` [out, in / blockSize, blockSize · bits / 8], `scales` [out · in / blockSize]. */
export interface QuantizedWeight {
  blocks: Value;
  scales: Value;
  bits: 4 | 8;
  blockSize: number;
  outFeatures: number;
  inFeatures: number;
}

/**
 * x · weightᵀ for a block-quantised weight: [..., in] → [..., out]
 * @param accuracyLevel of MatMulNBits; with 4, activations are quantised to int8 inside the kernel, with 0 they are not
 * @param vjp the gradient by x, which needs another form of the weight
 */
export function quantizedLinear(
  graph: GraphBuilder,
  x: Value,
  weight: QuantizedWeight,
  accuracyLevel: 0 | 4 = 4,
  vjp?: VjpRule,
): Value {
  const inner = staticSize(graph, "MatMulNBits", x, -1);
  if (inner !== weight.inFeatures) throw graph.shapeError("MatMulNBits", "inner axes differ", [x, weight.blocks]);
  return graph.node({
    opType: "MatMulNBits",
    domain: "com.microsoft",
    inputs: [x, weight.blocks, weight.scales],
    attributes: {
      K: BigInt(weight.inFeatures),
      N: BigInt(weight.outFeatures),
      bits: BigInt(weight.bits),
      block_size: BigInt(weight.blockSize),
      accuracy_level: BigInt(accuracyLevel),
    },
    outputs: [{ dtype: x.dtype, shape: [...x.shape.slice(0, -1), weight.outFeatures] }],
    ...(vjp === undefined ? {} : { vjp }),
  })[0] as Value;
}

/**
 * The same for a frozen weight that a gradient passes through: with `turned`, the quantised transpose [in, out] of the
 * same matrix, the gradient by x is a product of that kind too. Activations are not quantised, either way.
 */
export function frozenLinear(graph: GraphBuilder, x: Value, weight: QuantizedWeight, turned: QuantizedWeight): Value {
  return quantizedLinear(graph, x, weight, 0, ({ gradient }) => [quantizedLinear(graph, gradient, turned, 0)]);
}

/** A weight quantised per output column: `columns` int8 [in, out], `scales` float32 [out]. */
export interface ColumnQuantizedWeight {
  columns: Value;
  scales: Value;
}

/**
 * x · weight for a weight quantised per column: [..., in] → [..., out]. Each row of x is divided by its largest magnitude,
 * so that the kernel's one int8 scale for all rows suits every row, and multiplied back afterwards.
 */
export function columnQuantizedLinear(graph: GraphBuilder, x: Value, weight: ColumnQuantizedWeight): Value {
  const opType = "DynamicQuantizeMatMul";
  if (staticSize(graph, opType, x, -1) !== weight.columns.shape[0]) {
    throw graph.shapeError(opType, "inner axes differ", [x, weight.columns]);
  }
  const [magnitude] = graph.node({ opType: "Abs", inputs: [x], outputs: [x] });
  const largest = max(graph, reduceMax(graph, magnitude as Value, [-1], true), graph.floats([1e-30], []));
  const shape = [...x.shape.slice(0, -1), weight.columns.shape[1] as number | string];
  const [product] = graph.node({
    opType,
    domain: "com.microsoft",
    inputs: [div(graph, x, largest), weight.columns, weight.scales],
    outputs: [{ dtype: x.dtype, shape }],
  });
  return mul(graph, product as Value, largest);
}

/** `x` with its last two axes exchanged */
export function transposeMatrix(graph: GraphBuilder, x: Value): Value {
  const rank = x.shape.length;
  return transpose(graph, x, [...Array.from({ length: rank - 2 }, (_, axis) => axis), rank - 1, rank - 2]);
}

/** `x` as a matrix: leading axes folded into one */
export function asMatrix(graph: GraphBuilder, x: Value): Value {
  if (x.shape.length === 2) return x;
  const rows = x.shape.slice(0, -1).map((_, axis) => staticSize(graph, "MatMul", x, axis));
  return reshape(graph, x, [rows.reduce((product, size) => product * size, 1), x.shape[x.shape.length - 1] as number]);
}

/**
 * aᵀ · gradient, summed to the shape of `b`. The narrower factor is the one that is transposed: devices do that with a
 * kernel of its own.
 */
export function productGradient(graph: GraphBuilder, a: Value, gradient: Value, b: Value): Value {
  const [inner, outer] = [staticSize(graph, "MatMul", a, -1), staticSize(graph, "MatMul", gradient, -1)];
  const flat = b.shape.length === 2 && a.shape.length > 2 && !splits(graph, a, inner, outer);
  const [left, right] = flat ? [asMatrix(graph, a), asMatrix(graph, gradient)] : [a, gradient];
  if (inner <= outer) return unbroadcast(graph, matmul(graph, transposeMatrix(graph, left), right), b);
  const swapped = { ...b, shape: [...b.shape.slice(0, -2), outer, inner] };
  return transposeMatrix(graph, unbroadcast(graph, matmul(graph, transposeMatrix(graph, right), left), swapped));
}

/**
 * Whether the gradient of a matrix that all leading axes share is better computed in parts, one per leading index, and
 * summed. One product over all rows has little to do in parallel where the matrix is small, as those of a LoRA are; parts
 * cost more than they bring once they are larger than what they are made of.
 */
function splits(graph: GraphBuilder, a: Value, inner: number, outer: number): boolean {
  return paysInParts(staticSize(graph, "MatMul", a, -2), inner, outer);
}

/** The same by sizes: `rows` of one leading index, and the matrix [inner, outer]. */
export function paysInParts(rows: number, inner: number, outer: number): boolean {
  return inner * outer <= rows * (inner + outer);
}

/** Gradients of matrix products. */
export const LINALG_VJPS: VjpRules = {
  MatMul: ({ graph, inputs, gradient, needs }) => {
    const [a, b] = inputs as [Value, Value];
    const byA = needs(0) ? unbroadcast(graph, matmul(graph, gradient, transposeMatrix(graph, b)), a) : undefined;
    return [byA, needs(1) ? productGradient(graph, a, gradient, b) : undefined];
  },
};
