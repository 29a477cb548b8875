/** @file Where a decoder graph's weights come from: the checkpoint as it is stored, or its quantised copy. */
import { basename } from "node:path";
import { PrecisError } from "../errors.js";
import type { GraphBuilder, Value } from "../graph/builder.js";
import { add, cast } from "../graph/ops/elementwise.js";
import { columnQuantizedLinear, linear, quantizedLinear } from "../graph/ops/linalg.js";
import { concat } from "../graph/ops/movement.js";
import type { DType, FloatDType } from "../tensor/dtype.js";
import type { TensorEntry } from "../weights/safetensors.js";
import type { DecoderConfig } from "./config.js";
import { projectionSize } from "./projections.js";

/** A tensor placed for ONNX Runtime: a file inside the weights folder that the session is given. */
export type TensorLookup = ReadonlyMap<string, TensorEntry>;

/** Brings weights into a graph by their checkpoint names. */
export interface DecoderWeights {
  /** q, k, v are one matrix `qkv_proj`, and gate, up one matrix `gate_up_proj`. */
  readonly fused: boolean;
  /** Matrices are block-quantised, the output head included. */
  readonly quantized: boolean;
  /** A [size] vector as float32. */
  vector(graph: GraphBuilder, name: string): Value;
  /** x · Wᵀ (+ bias) for the projection stored under `name` + ".weight"; stored matrices take the type of `x`. */
  project(graph: GraphBuilder, x: Value, name: string, bias: boolean): Value;
  /**
   * Several projections of one input as one product, their outputs side by side; only where they are not fused already.
   * @returns undefined where the form of the weights does not allow it
   */
  projectJoined?(graph: GraphBuilder, x: Value, names: readonly string[], bias: boolean): Value | undefined;
  /** A whole [rows, columns] matrix, as float32 unless told otherwise. */
  matrix(graph: GraphBuilder, name: string, dtype?: FloatDType): Value;
}

function find(tensors: TensorLookup, name: string): TensorEntry {
  const entry = tensors.get(name);
  if (entry !== undefined) return entry;
  throw new PrecisError("WEIGHTS_INVALID", `The checkpoint has no tensor "${name}".`, {
    value: name,
    nextStep: "Check that config.json belongs to these weights.",
  });
}

/** Loads an external weight once per graph and hands out its float form. */
export class ExternalWeights {
  readonly #tensors: TensorLookup;
  readonly #loaded = new Map<string, Value>();

  constructor(tensors: TensorLookup) {
    this.#tensors = tensors;
  }

  raw(graph: GraphBuilder, name: string, shape?: readonly number[]): Value {
    const known = this.#loaded.get(name);
    if (known !== undefined) return known;
    const entry = find(this.#tensors, name);
    const value = graph.weight(name, entry.dtype, shape ?? entry.shape, {
      location: basename(entry.file),
      offset: entry.offset,
      length: entry.length,
    });
    this.#loaded.set(name, value);
    return value;
  }

  float(graph: GraphBuilder, name: string, dtype: DType = "float32"): Value {
    const key = `${name}:${dtype}`;
    const known = this.#loaded.get(key);
    if (known !== undefined) return known;
    const value = cast(graph, this.raw(graph, name), dtype);
    this.#loaded.set(key, value);
    return value;
  }
}

/** Weights as the checkpoint stores them; half floats are widened inside the graph, unless the graph computes with them. */
export function storedWeights(config: DecoderConfig, tensors: TensorLookup): DecoderWeights {
  const external = new ExternalWeights(tensors);
  const joined = (graph: GraphBuilder, names: readonly string[], dtype: DType): Value =>
    concat(
      graph,
      names.map((name) => external.float(graph, name, dtype)),
      0,
    );
  return {
    fused: config.fusedProjections,
    quantized: false,
    vector: (graph, name) => external.float(graph, name),
    matrix: (graph, name, dtype) => external.float(graph, name, dtype),
    project(graph, x, name, bias) {
      const product = linear(graph, x, external.float(graph, `${name}.weight`, x.dtype));
      return bias ? add(graph, product, external.float(graph, `${name}.bias`, x.dtype)) : product;
    },
    projectJoined(graph, x, names, bias) {
      const all = (kind: string): Value =>
        joined(
          graph,
          names.map((name) => `${name}.${kind}`),
          x.dtype,
        );
      const product = linear(graph, x, all("weight"));
      return bias ? add(graph, product, all("bias")) : product;
    },
  };
}

/** Weights of a quantised copy, made after {@link quantizationPlan}. */
export function quantizedWeights(tensors: TensorLookup, bits: 4 | 8, blockSize: number): DecoderWeights {
  const external = new ExternalWeights(tensors);
  return {
    fused: true,
    quantized: true,
    vector: (graph, name) => external.float(graph, name),
    matrix: (graph, name, dtype) => external.float(graph, name, dtype),
    project(graph, x, name, bias) {
      const blocks = external.raw(graph, `${name}.weight.blocks`);
      const scales = external.raw(graph, `${name}.weight.scales`);
      const outFeatures = Number(blocks.shape[0]);
      const inFeatures = Number(x.shape[x.shape.length - 1]);
      const product = quantizedLinear(graph, x, { blocks, scales, bits, blockSize, outFeatures, inFeatures });
      return bias ? add(graph, product, external.float(graph, `${name}.bias`)) : product;
    },
  };
}

/** The same copy for long inputs: matrices in their column form where they have one, see `weights/column-copy.ts`. */
export function columnWeights(tensors: TensorLookup, blockSize: number): DecoderWeights {
  const external = new ExternalWeights(tensors);
  const blocks = quantizedWeights(tensors, 4, blockSize);
  return {
    ...blocks,
    project(graph, x, name, bias) {
      if (!tensors.has(`${name}.weight.columns`)) return blocks.project(graph, x, name, bias);
      const columns = external.raw(graph, `${name}.weight.columns`);
      const scales = external.raw(graph, `${name}.weight.column_scales`);
      const product = columnQuantizedLinear(graph, x, { columns, scales });
      return bias ? add(graph, product, blocks.vector(graph, `${name}.bias`)) : product;
    },
  };
}

/** Every tensor a decoder reads, as a plan for quantising: matrices with the parts they are stacked from, and the rest. */
export interface DecoderTensorPlan {
  linears: { name: string; parts: string[] }[];
  kept: string[];
}

/** Which tensors of a checkpoint become quantised matrices and which are kept; projections of one input are stacked. */
export function quantizationPlan(config: DecoderConfig): DecoderTensorPlan {
  const linears: DecoderTensorPlan["linears"] = [];
  const kept = ["model.norm.weight"];
  for (let layer = 0; layer < config.layerCount; layer++) {
    const prefix = `model.layers.${layer}`;
    const stack = (name: string, parts: readonly string[], bias: boolean): void => {
      const names = config.fusedProjections || parts.length === 0 ? [name] : parts;
      const paths = names.map((part) => `${prefix}.${part}`);
      linears.push({ name: `${prefix}.${name}.weight`, parts: paths.map((path) => `${path}.weight`) });
      if (bias) kept.push(...paths.map((path) => `${path}.bias`));
    };
    stack("self_attn.qkv_proj", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], config.attentionBias);
    stack("self_attn.o_proj", [], config.outputBias);
    stack("mlp.gate_up_proj", ["mlp.gate_proj", "mlp.up_proj"], config.mlpBias);
    stack("mlp.down_proj", [], config.mlpBias);
    kept.push(`${prefix}.input_layernorm.weight`, `${prefix}.post_attention_layernorm.weight`);
    if (config.headNorms) kept.push(`${prefix}.self_attn.q_norm.weight`, `${prefix}.self_attn.k_norm.weight`);
    if (config.sandwichNorms) {
      kept.push(`${prefix}.pre_feedforward_layernorm.weight`, `${prefix}.post_feedforward_layernorm.weight`);
    }
  }
  const head = config.tiedHead ? "model.embed_tokens.weight" : "lm_head.weight";
  linears.push({ name: "lm_head.weight", parts: [head] });
  return { linears, kept };
}

/** The shape that the configuration gives to a tensor of the plan. */
function expectedShape(config: DecoderConfig, name: string): number[] {
  const { vocabSize, hiddenSize, headDim } = config;
  if (/^(lm_head|model\.embed_tokens)\./.test(name)) return [vocabSize, hiddenSize];
  if (/\.[qk]_norm\./.test(name)) return [headDim];
  const projection = /^model\.layers\.\d+\.(.+_proj)\.(weight|bias)$/.exec(name);
  if (projection === null) return [hiddenSize];
  const [inFeatures, outFeatures] = projectionSize(config, projection[1] as string);
  return projection[2] === "weight" ? [outFeatures, inFeatures] : [outFeatures];
}

/**
 * Checks that every tensor a decoder reads is there in the shape that the configuration says.
 * @throws WEIGHTS_INVALID
 */
export function checkTensorShapes(config: DecoderConfig, tensors: TensorLookup): void {
  const { linears, kept } = quantizationPlan(config);
  for (const name of [...linears.flatMap(({ parts }) => parts), ...kept, "model.embed_tokens.weight"]) {
    const { shape } = find(tensors, name);
    const expected = expectedShape(config, name);
    if (shape.join() === expected.join()) continue;
    throw new PrecisError(
      "WEIGHTS_INVALID",
      `The tensor "${name}" has the shape [${shape.join(", ")}], but config.json asks for [${expected.join(", ")}].`,
      { value: name, nextStep: "Check that config.json belongs to these weights." },
    );
  }
}

/** The stacked matrices of the layers, with the sizes of their inputs. The head sees few rows and needs no second form. */
export function columnMatrices(config: DecoderConfig): { name: string; inFeatures: number }[] {
  const { hiddenSize, intermediateSize, queryHeads, headDim } = config;
  const inputs: Readonly<Record<string, number>> = {
    "self_attn.qkv_proj": hiddenSize,
    "self_attn.o_proj": queryHeads * headDim,
    "mlp.gate_up_proj": hiddenSize,
    "mlp.down_proj": intermediateSize,
  };
  return Array.from({ length: config.layerCount }, (_, layer) =>
    Object.entries(inputs).map(([name, inFeatures]) => ({ name: `model.layers.${layer}.${name}.weight`, inFeatures })),
  ).flat();
}
