/** @file Attention and rotary position embedding. */
import type { Dim, GraphBuilder, Value } from "../builder.js";
import type { FloatDType } from "../../tensor/dtype.js";
import type { VjpRules } from "../vjp.js";
import { scale as multiply } from "./elementwise.js";
import { reshape } from "./movement.js";
import { primitiveAttention } from "./primitive-attention.js";
import { expectRank, staticSize, sumDims } from "./shapes.js";

/** Inputs and settings of {@link attention}. */
export interface AttentionSpec {
  /** [batch, seq, queryHeads · headDim] */
  queries: Value;
  /** [batch, seq, kvHeads · headDim] */
  keys: Value;
  /** [batch, seq, kvHeads · headDim] */
  values: Value;
  /**
   * [batch | 1, heads | 1, seq, past + seq], of the queries' type, added to the scores before the softmax. Where it hides
   * all later tokens from a token, the primitive form takes causal blocks of it, which then cost less: of blocks of tokens,
   * in order, the bias [batch | 1, heads | 1, tokens, end] by all tokens up to the end of the block.
   */
  attentionBias: Value | readonly Value[];
  /** [batch, kvHeads, past, headDim] */
  pastKeys?: Value;
  /** [batch, kvHeads, past, headDim] */
  pastValues?: Value;
  queryHeads: number;
  kvHeads: number;
  /** Factor on the scores, usually 1 / sqrt(headDim). */
  scale: number;
  /** Type that the primitive form computes the softmax in, of half floats too; default float32. */
  softmaxType?: FloatDType;
  /** Also return the weights after the softmax. */
  returnWeights?: boolean;
}

/**
 * softmax(scale · QKᵀ + bias) · V over past and new rows; grouped heads share keys and values. Causal blocks go neither
 * with a past nor with weights.
 * @returns the output [batch, seq, queryHeads · headDim], and if asked the weights [batch, queryHeads, seq, past + seq]
 */
export function attention(graph: GraphBuilder, spec: AttentionSpec): [output: Value, weights?: Value] {
  const headDim = checkHeads(graph, spec);
  const biases = [spec.attentionBias].flat();
  if (graph.form === "primitive") return primitiveAttention(graph, spec, biases, headDim);
  const [bias] = biases as [Value];
  if (biases.length > 1) throw graph.shapeError(OP_TYPE, "has no causal blocks in its fused form", biases);
  return fusedAttention(graph, spec, bias, headDim);
}

const OP_TYPE = "Attention";

/** Checks everything but the past. @returns headDim */
function checkHeads(
  graph: GraphBuilder,
  { queries, keys, values, attentionBias, queryHeads, kvHeads }: AttentionSpec,
): number {
  for (const value of [queries, keys, values]) expectRank(graph, OP_TYPE, value, 3);
  for (const bias of [attentionBias].flat()) expectRank(graph, OP_TYPE, bias, 4);
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

function fusedAttention(
  graph: GraphBuilder,
  spec: AttentionSpec,
  attentionBias: Value,
  headDim: number,
): [output: Value, weights?: Value] {
  const { queries, keys, values, pastKeys, pastValues, queryHeads, kvHeads, scale } = spec;
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
