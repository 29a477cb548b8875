/** @file Attention and rotary position embedding. */
import type { Dim, GraphBuilder, Value } from "../builder.js";
import type { DType } from "../../tensor/dtype.js";
import type { VjpRule, VjpRules } from "../vjp.js";
import { add, cast, mul, scale as multiply, sub } from "./elementwise.js";
import { matmul, productGradient, transposeMatrix } from "./linalg.js";
import { concat, reshape, transpose } from "./movement.js";
import { reduceSum, softmax } from "./reduction.js";
import { expectRank, staticSize, sumDims } from "./shapes.js";

/** Inputs and settings of {@link attention}. */
export interface AttentionSpec {
  /** [batch, seq, queryHeads · headDim] */
  queries: Value;
  /** [batch, seq, kvHeads · headDim] */
  keys: Value;
  /** [batch, seq, kvHeads · headDim] */
  values: Value;
  /** [batch | 1, heads | 1, seq, past + seq], of the queries' type, added to the scores before the softmax */
  attentionBias: Value;
  /** [batch, kvHeads, past, headDim] */
  pastKeys?: Value;
  /** [batch, kvHeads, past, headDim] */
  pastValues?: Value;
  queryHeads: number;
  kvHeads: number;
  /** Factor on the scores, usually 1 / sqrt(headDim). */
  scale: number;
  /** Also return the weights after the softmax. */
  returnWeights?: boolean;
}

/**
 * softmax(scale · QKᵀ + bias) · V over past and new rows; grouped heads share keys and values.
 * @returns the output [batch, seq, queryHeads · headDim], and if asked the weights [batch, queryHeads, seq, past + seq]
 */
export function attention(graph: GraphBuilder, spec: AttentionSpec): [output: Value, weights?: Value] {
  const headDim = checkHeads(graph, spec);
  return graph.form === "fused" ? fusedAttention(graph, spec, headDim) : primitiveAttention(graph, spec, headDim);
}

const OP_TYPE = "Attention";

/** Checks everything but the past. @returns headDim */
function checkHeads(
  graph: GraphBuilder,
  { queries, keys, values, attentionBias, queryHeads, kvHeads }: AttentionSpec,
): number {
  for (const value of [queries, keys, values]) expectRank(graph, OP_TYPE, value, 3);
  expectRank(graph, OP_TYPE, attentionBias, 4);
  const headDim = staticSize(graph, OP_TYPE, queries, -1) / queryHeads;
  if (queryHeads % kvHeads !== 0) {
    throw graph.shapeError(OP_TYPE, `cannot share ${kvHeads} heads among ${queryHeads}`, [queries, keys]);
  }
  for (const value of [keys, values]) {
    if (staticSize(graph, OP_TYPE, value, -1) !== kvHeads * headDim) {
      throw graph.shapeError(OP_TYPE, `needs ${kvHeads} heads of ${headDim}`, [value]);
    }
  }
  return headDim;
}

function fusedAttention(graph: GraphBuilder, spec: AttentionSpec, headDim: number): [output: Value, weights?: Value] {
  const { queries, keys, values, attentionBias, pastKeys, pastValues, queryHeads, kvHeads, scale } = spec;
  for (const past of [pastKeys, pastValues]) {
    if (past === undefined) continue;
    expectRank(graph, OP_TYPE, past, 4);
    if (past.shape[1] !== kvHeads || past.shape[3] !== headDim) {
      throw graph.shapeError(OP_TYPE, `past needs ${kvHeads} heads of ${headDim}`, [past]);
    }
  }
  const seq = keys.shape[1] as Dim;
  const total = pastKeys === undefined ? seq : sumDims([pastKeys.shape[2] as Dim, seq]);
  if (sumDims([attentionBias.shape[3] as Dim]) !== total) {
    throw graph.shapeError(OP_TYPE, `bias must cover ${total} keys`, [attentionBias]);
  }
  const present = { dtype: keys.dtype, shape: [keys.shape[0] as Dim, kvHeads, total, headDim] };
  const weights = { dtype: keys.dtype, shape: [queries.shape[0] as Dim, queryHeads, queries.shape[1] as Dim, total] };
  const [output, , , attentionWeights] = graph.node({
    opType: OP_TYPE,
    inputs: [queries, keys, values, attentionBias, pastKeys, pastValues],
    attributes: {
      q_num_heads: BigInt(queryHeads),
      kv_num_heads: BigInt(kvHeads),
      scale,
      ...(spec.returnWeights === true ? { qk_matmul_output_mode: 3n } : {}),
    },
    // The CPU kernel refuses a past unless the present exists; nothing reads it, so it never leaves the engine.
    outputs: [queries, present, present, ...(spec.returnWeights === true ? [weights] : [])],
  });
  return [output as Value, attentionWeights];
}

/**
 * The same from products and a softmax. Queries that share a key head are stacked, so that each product has one matrix
 * per key head. Half floats are multiplied as they are, and the bias is added to them; the softmax of them is float32.
 */
function primitiveAttention(
  graph: GraphBuilder,
  spec: AttentionSpec,
  headDim: number,
): [output: Value, weights?: Value] {
  const { queries, attentionBias, queryHeads, kvHeads } = spec;
  const [batch, seq] = queries.shape as [Dim, Dim];
  const group = queryHeads / kvHeads;
  const stacked = typeof seq === "number" ? group * seq : `${group} * ${seq}`;
  const heads = (x: Value, count: number): Value =>
    transpose(graph, reshape(graph, x, [batch, x.shape[1] as Dim, count, headDim]), [0, 2, 1, 3]);
  const withPast = (past: Value | undefined, rows: Value): Value =>
    past === undefined ? rows : concat(graph, [past, rows], 2);
  const keys = withPast(spec.pastKeys, heads(spec.keys, kvHeads));
  const values = withPast(spec.pastValues, heads(spec.values, kvHeads));
  const total = keys.shape[2] as Dim;
  const grouped = reshape(graph, heads(queries, queryHeads), [batch, kvHeads, stacked, headDim]);
  const scaled = spec.scale === 1 ? grouped : multiply(graph, grouped, spec.scale);
  const scores = matmul(graph, scaled, transpose(graph, keys, [0, 1, 3, 2]));
  const perHeadScores = reshape(graph, scores, [batch, queryHeads, seq, total]);
  // Where the bias is 0, as it is at every key that counts, nothing is rounded once more.
  const biased = cast(graph, add(graph, perHeadScores, attentionBias), "float32");
  // The shorter gradient holds only while nothing but the values meets the weights.
  const plain = (x: Value): Value => cast(graph, softmax(graph, x), queries.dtype);
  const weights = spec.returnWeights === true ? plain(biased) : softmaxBefore(graph, biased, queries.dtype);
  const mix = spec.returnWeights === true ? matmul : mixRows;
  const mixed = mix(graph, reshape(graph, weights, [batch, kvHeads, stacked, total]), values);
  const perHead = transpose(graph, reshape(graph, mixed, [batch, queryHeads, seq, headDim]), [0, 2, 1, 3]);
  const output = reshape(graph, perHead, [batch, seq, queryHeads * headDim]);
  return spec.returnWeights === true ? [output, weights] : [output];
}

/**
 * A softmax that only {@link mixRows} reads, converted to `dtype`. Its gradient is p (g − Σ g p); the g that it is handed
 * has the sum taken off already. Of half floats, the gradient stays one down to the product that made the scores.
 */
function softmaxBefore(graph: GraphBuilder, x: Value, dtype: DType): Value {
  const byScores: VjpRule = ({ gradient, output }) => [mul(graph, gradient, output)];
  const narrow = dtype !== x.dtype;
  const [weights] = graph.node({
    opType: "Softmax",
    inputs: [x],
    attributes: { axis: -1n },
    outputs: [x],
    // The wide weights are then not needed a second time.
    vjp: narrow ? ({ gradient }) => [gradient] : byScores,
  });
  return narrow ? cast(graph, weights as Value, dtype, byScores) : (weights as Value);
}

/**
 * weights · values. With G the gradient of the output O, that of the weights is G valuesᵀ; Σ over a row of it times the
 * weights is Σ G O, a sum over one head's elements instead of one over all keys (Dao et al. 2022, appendix B.4).
 */
function mixRows(graph: GraphBuilder, weights: Value, values: Value): Value {
  return graph.node({
    opType: "MatMul",
    inputs: [weights, values],
    outputs: [{ dtype: weights.dtype, shape: [...weights.shape.slice(0, -1), values.shape[3] as Dim] }],
    vjp: ({ inputs, output, gradient, needs }) => {
      const [p, v] = inputs as [Value, Value];
      const byWeights = (): Value => {
        const products = cast(graph, mul(graph, gradient, output), "float32");
        const sums = cast(graph, reduceSum(graph, products, [-1], true), p.dtype);
        return sub(graph, matmul(graph, gradient, transposeMatrix(graph, v)), sums);
      };
      return [needs(0) ? byWeights() : undefined, needs(1) ? productGradient(graph, p, gradient, v) : undefined];
    },
  })[0] as Value;
}

/**
 * Rotates pairs (x_i, x_{i + d/2}) of each head by the angles whose cosines and sines are given (Su et al. 2021).
 * @param x [batch, seq, heads · headDim]
 * @param cos [batch, seq, rotaryDim / 2], or with `tableRows` [rows, rotaryDim / 2], at least seq rows; `sin` likewise;
 *   the first rotaryDim elements of a head turn
 * @param tableRows int64 [batch, seq]: the row of the tables that each token is turned by
 */
export function rotary(graph: GraphBuilder, x: Value, cos: Value, sin: Value, heads: number, tableRows?: Value): Value {
  const opType = "RotaryEmbedding";
  expectRank(graph, opType, x, 3);
  const headDim = staticSize(graph, opType, x, -1) / heads;
  const rotaryDim = 2 * staticSize(graph, opType, cos, -1);
  if (rotaryDim > headDim || !Number.isInteger(headDim)) {
    throw graph.shapeError(opType, `cannot turn ${rotaryDim} of ${headDim} elements`, [x, cos]);
  }
  const [batch, seq] = x.shape;
  const turn = { heads, part: rotaryDim === headDim ? 0 : rotaryDim };
  if (tableRows !== undefined) return turnPairs(graph, x, [cos, sin, tableRows], turn);
  if (typeof batch !== "number" || typeof seq !== "number") return turnPairs(graph, x, [cos, sin], turn);
  // Told which row of the tables belongs to which token, a device need not number the tokens first.
  const tokens = batch * seq;
  const rows = graph.integers(
    Array.from({ length: tokens }, (_, token) => token),
    [batch, seq],
  );
  const flat = (table: Value): Value => reshape(graph, table, [tokens, rotaryDim / 2]);
  return turnPairs(graph, x, [flat(cos), flat(sin), rows], turn);
}

function turnPairs(
  graph: GraphBuilder,
  x: Value,
  tables: readonly (Value | undefined)[],
  { heads, part }: { heads: number; part: number },
): Value {
  return graph.node({
    opType: "RotaryEmbedding",
    inputs: [x, ...tables],
    attributes: { num_heads: BigInt(heads), rotary_embedding_dim: BigInt(part) },
    outputs: [x],
  })[0] as Value;
}

/** Gradient of a rotation: the rotation back. */
export const ATTENTION_VJPS: VjpRules = {
  RotaryEmbedding: ({ graph, node, inputs, gradient }) => {
    const [, cos, sin, rows] = inputs;
    const [heads, part] = ["num_heads", "rotary_embedding_dim"].map((name) => Number(node.attributes[name]));
    const tables = [cos, multiply(graph, sin as Value, -1), rows].filter((value) => value !== undefined);
    return [turnPairs(graph, gradient, tables, { heads: heads as number, part: part as number })];
  },
};
