/** @file Weights of a decoder that is differentiated but not trained: 8-bit matrices in both forms that a step multiplies by. */
import type { GraphBuilder } from "../graph/builder.js";
import { add } from "../graph/ops/elementwise.js";
import { frozenLinear, type QuantizedWeight } from "../graph/ops/linalg.js";
import type { FloatDType } from "../tensor/dtype.js";
import type { QuantizationPlan } from "../weights/quantize.js";
import type { DecoderConfig } from "./config.js";
import { ExternalWeights, quantizationPlan, type DecoderWeights, type TensorLookup } from "./decoder-weights.js";

/** What a matrix's transpose is called in the copy. */
const turnedName = (name: string): string => `${name}.turned`;

/** Which tensors of a checkpoint become 8-bit matrices, each a second time turned, and which are kept as they are stored. */
export function frozenPlan(config: DecoderConfig): QuantizationPlan {
  const { linears, kept } = quantizationPlan(config);
  const matrices = linears.flatMap(({ parts }) => parts);
  // Rows of these are looked up, by token id and by label.
  const tables = new Set(["model.embed_tokens.weight", ...(config.tiedHead ? [] : ["lm_head.weight"])]);
  return {
    linears: matrices.flatMap((name) => [
      { name, parts: [name] },
      { name: turnedName(name), parts: [name], turned: true },
    ]),
    kept: [...kept, ...tables],
  };
}

/** Weights of a copy made after {@link frozenPlan}, 8 bits each. Projections stay apart: products with them are cheap. */
export function frozenWeights(config: DecoderConfig, tensors: TensorLookup, blockSize: number): DecoderWeights {
  const external = new ExternalWeights(tensors);
  const matrix = (graph: GraphBuilder, name: string, inFeatures: number, dtype: FloatDType): QuantizedWeight => {
    const blocks = external.raw(graph, `${name}.blocks`);
    const scales = external.float(graph, `${name}.scales`, dtype);
    return { blocks, scales, bits: 8, blockSize, outFeatures: Number(blocks.shape[0]), inFeatures };
  };
  return {
    fused: config.fusedProjections,
    quantized: false,
    vector: (graph, name) => external.float(graph, name),
    matrix: (graph, name, dtype) => external.float(graph, name, dtype),
    project(graph, x, name, bias) {
      const dtype = x.dtype as FloatDType;
      const weight = matrix(graph, `${name}.weight`, Number(x.shape[x.shape.length - 1]), dtype);
      const turned = matrix(graph, turnedName(`${name}.weight`), weight.outFeatures, dtype);
      const product = frozenLinear(graph, x, weight, turned);
      return bias ? add(graph, product, external.float(graph, `${name}.bias`, dtype)) : product;
    },
  };
}
