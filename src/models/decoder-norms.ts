/** @file The RMS norms of a decoder. */
import type { Value } from "../graph/builder.js";
import type { DType } from "../tensor/dtype.js";
import { add, cast } from "../graph/ops/elementwise.js";
import { reshape } from "../graph/ops/movement.js";
import { rmsNorm, skipRmsNorm } from "../graph/ops/normalization.js";
import { inLayer, widen, type DecoderContext } from "./decoder-context.js";

/** The norm of `x` over its last axis, by the factors stored under `name` + ".weight". */
export function norm(decoder: DecoderContext, x: Value, name: string): Value {
  return rmsNorm(decoder.graph, x, normFactors(decoder, name, x.dtype), decoder.config.normEpsilon);
}

/** The sum of two branches and its norm, in a pass that stands alone as one kernel. */
export function addAndNorm(decoder: DecoderContext, a: Value, b: Value, name: string): { normed: Value; sum: Value } {
  const { graph, cached } = decoder;
  const { normEpsilon } = decoder.config;
  const factors = normFactors(decoder, name, a.dtype);
  if (!cached) return skipRmsNorm(graph, a, b, factors, normEpsilon);
  const sum = add(graph, a, b);
  return { normed: rmsNorm(graph, sum, factors, normEpsilon), sum };
}

/** Each head of `x` [batch, seq, heads · headDim] after a norm of its own, in the families that have such norms. */
export function headNorm(decoder: DecoderContext, x: Value, layer: number, name: string, heads: number): Value {
  const { graph, dims } = decoder;
  const { headNorms, headDim } = decoder.config;
  if (!headNorms) return x;
  const perHead = reshape(graph, x, [dims.batch, dims.seq, heads, headDim]);
  const normed = norm(decoder, widen(decoder, perHead), inLayer(layer, `self_attn.${name}`));
  return reshape(graph, cast(graph, normed, x.dtype), [dims.batch, dims.seq, heads * headDim]);
}

function normFactors({ graph, weights, config }: DecoderContext, name: string, dtype: DType): Value {
  const stored = weights.vector(graph, `${name}.weight`);
  const { normOffset } = config;
  return cast(graph, normOffset === 0 ? stored : add(graph, stored, graph.floats([normOffset])), dtype);
}
