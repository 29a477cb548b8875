/** @file Weights of a decoder that is differentiated but not trained: 8-bit matrices in both forms that a step multiplies by. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { add, cast } from "../graph/ops/elementwise.js";
import { frozenLinear, type QuantizedWeight } from "../graph/ops/linalg.js";
import { concat, reshape } from "../graph/ops/movement.js";
import type { FloatDType } from "../tensor/dtype.js";
import type { QuantizationPlan } from "../weights/quantize.js";
import type { DecoderConfig } from "./config.js";
import {
  ExternalWeights,
  quantizationPlan,
  storedWeights,
  type DecoderWeights,
  type TensorLookup,
} from "./decoder-weights.js";

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

/** Weights of a copy made after {@link frozenPlan}, 8 bits each. */
export function frozenWeights(config: DecoderConfig, tensors: TensorLookup, blockSize: number): DecoderWeights {
  const external = new ExternalWeights(tensors);
  const matrix = (graph: GraphBuilder, name: string, inFeatures: number, dtype: FloatDType): QuantizedWeight => {
    const blocks = external.raw(graph, `${name}.blocks`);
    const scales = external.float(graph, `${name}.scales`, dtype);
    return { blocks, scales, bits: 8, blockSize, outFeatures: Number(blocks.shape[0]), inFeatures };
  };
  const forms = (graph: GraphBuilder, x: Value, name: string): { weight: QuantizedWeight; turned: QuantizedWeight } => {
    const dtype = x.dtype as FloatDType;
    const weight = matrix(graph, `${name}.weight`, Number(x.shape[x.shape.length - 1]), dtype);
    return { weight, turned: matrix(graph, turnedName(`${name}.weight`), weight.outFeatures, dtype) };
  };
  const stored = storedWeights(config, tensors);
  const vector = (graph: GraphBuilder, name: string, x: Value): Value =>
    cast(graph, stored.vector(graph, name), x.dtype);
  return {
    ...stored,
    project(graph, x, name, bias) {
      const { weight, turned } = forms(graph, x, name);
      const product = frozenLinear(graph, x, weight, turned);
      return bias ? add(graph, product, vector(graph, `${name}.bias`, x)) : product;
    },
    projectJoined(graph, x, names, bias) {
      const parts = names.map((name) => forms(graph, x, name));
      // Rows of a matrix lie below those of the next; its columns are those of the transpose, and end at whole blocks.
      if (parts.some(({ weight }) => weight.outFeatures % blockSize !== 0)) return undefined;
      const weight = joinRows(
        graph,
        parts.map((part) => part.weight),
      );
      const product = frozenLinear(
        graph,
        x,
        weight,
        joinColumns(
          graph,
          parts.map(({ turned }) => turned),
        ),
      );
      if (!bias) return product;
      const biases = names.map((name) => vector(graph, `${name}.bias`, x));
      return add(graph, product, concat(graph, biases, 0));
    },
  };
}

/** One matrix of the rows of several. */
function joinRows(graph: GraphBuilder, parts: readonly QuantizedWeight[]): QuantizedWeight {
  const join = (side: "blocks" | "scales"): Value =>
    concat(
      graph,
      parts.map((part) => part[side]),
      0,
    );
  return {
    ...(parts[0] as QuantizedWeight),
    blocks: join("blocks"),
    scales: join("scales"),
    outFeatures: parts.reduce((sum, { outFeatures }) => sum + outFeatures, 0),
  };
}

/** One matrix of the columns of several, which end where blocks do. */
function joinColumns(graph: GraphBuilder, parts: readonly QuantizedWeight[]): QuantizedWeight {
  const { outFeatures: rows } = parts[0] as QuantizedWeight;
  const perRow = parts.map(({ blocks }) => Number(blocks.shape[1]));
  const total = perRow.reduce((sum, count) => sum + count, 0);
  const scales = parts.map((part, index) => reshape(graph, part.scales, [rows, perRow[index] as number]));
  return {
    ...(parts[0] as QuantizedWeight),
    blocks: concat(
      graph,
      parts.map(({ blocks }) => blocks),
      1,
    ),
    scales: reshape(graph, concat(graph, scales, 1), [rows * total]),
    inFeatures: parts.reduce((sum, { inFeatures }) => sum + inFeatures, 0),
  };
}
