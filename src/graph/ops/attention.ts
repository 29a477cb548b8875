/** @file Attention and rotary position embedding, as fused ops. */
import type { Dim, GraphBuilder, Value } from "../builder.js";
import { expectRank, staticSize, sumDims } from "./shapes.js";

/** Inputs and settings of {@link attention}. */
export interface AttentionSpec {
  /** [batch, seq, queryHeads · headDim] */
  queries: Value;
  /** [batch, seq, kvHeads · headDim] */
  keys: Value;
  /** [batch, seq, kvHeads · headDim] */
  values: Value;
  /** [batch | 1, heads | 1, seq, past + seq], added to the scores before the softmax */
  attentionBias: Value;
  /** [batch, kvHeads, past, headDim] */
  pastKeys: Value;
  /** [batch, kvHeads, past, headDim] */
  pastValues: Value;
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
  const { queries, keys, values, attentionBias, pastKeys, pastValues, queryHeads, kvHeads, scale } = spec;
  const opType = "Attention";
  for (const value of [queries, keys, values]) expectRank(graph, opType, value, 3);
  for (const value of [attentionBias, pastKeys, pastValues]) expectRank(graph, opType, value, 4);
  const headDim = staticSize(graph, opType, queries, -1) / queryHeads;
  if (queryHeads % kvHeads !== 0)
    throw graph.shapeError(opType, `cannot share ${kvHeads} heads among ${queryHeads}`, [queries, keys]);
  for (const value of [keys, values]) {
    if (staticSize(graph, opType, value, -1) !== kvHeads * headDim) {
      throw graph.shapeError(opType, `needs ${kvHeads} heads of ${headDim}`, [value]);
    }
  }
  for (const past of [pastKeys, pastValues]) {
    if (past.shape[1] !== kvHeads || past.shape[3] !== headDim) {
      throw graph.shapeError(opType, `past needs ${kvHeads} heads of ${headDim}`, [past]);
    }
  }
  const total = sumDims([pastKeys.shape[2] as Dim, keys.shape[1] as Dim]);
  if (sumDims([attentionBias.shape[3] as Dim]) !== total) {
    throw graph.shapeError(opType, `bias must cover ${total} keys`, [attentionBias]);
  }
  const present = { dtype: keys.dtype, shape: [keys.shape[0] as Dim, kvHeads, total, headDim] };
  const weights = { dtype: keys.dtype, shape: [queries.shape[0] as Dim, queryHeads, queries.shape[1] as Dim, total] };
  const [output, , , attentionWeights] = graph.node({
    opType,
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
 * @param cos [batch, seq, rotaryDim / 2]; `sin` likewise; the first rotaryDim elements of a head turn
 */
export function rotary(graph: GraphBuilder, x: Value, cos: Value, sin: Value, heads: number): Value {
  const opType = "RotaryEmbedding";
  expectRank(graph, opType, x, 3);
  const headDim = staticSize(graph, opType, x, -1) / heads;
  const rotaryDim = 2 * staticSize(graph, opType, cos, -1);
  if (rotaryDim > headDim || !Number.isInteger(headDim)) {
    throw graph.shapeError(opType, `cannot turn ${rotaryDim} of ${headDim} elements`, [x, cos]);
  }
  return graph.node({
    opType,
    inputs: [x, cos, sin],
    attributes: { num_heads: BigInt(heads), rotary_embedding_dim: rotaryDim === headDim ? 0n : BigInt(rotaryDim) },
    outputs: [x],
  })[0] as Value;
}
