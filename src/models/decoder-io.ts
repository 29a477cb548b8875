/** @file What goes into a decoder graph and comes out of it, by name, and what such a graph can be asked for. */
import type { Dim, GraphBuilder, Value } from "../graph/builder.js";
import type { DecoderConfig, LayerType } from "./config.js";
import type { StackedLora } from "./lora.js";

/** Projections that an adapter may change, named as in checkpoints. */
export type LoraTarget = `self_attn.${string}_proj` | `mlp.${string}_proj`;

/** What a decoder graph should offer beyond plain inference. */
export interface DecoderGraphOptions {
  /** `"embeddings"` takes rows of the embedding table (and COMP embeddings); `"ids"` looks tokens up inside the graph. */
  input?: "embeddings" | "ids";
  /** `"primitive"` avoids fused kernels, for devices that lack them. Default `"fused"`. */
  form?: GraphBuilder["form"];
  /**
   * Type of the matrix products and of what lies between those of a branch; default float32. Half floats need stored
   * weights.
   */
  compute?: "float32" | "float16";
  /**
   * Type of the sum that runs through the layers, of its norms and of the softmax of attention; default float32, whatever
   * the products are. Half floats make fewer and shorter passes, and cannot hold the sums of every model.
   */
  sumType?: "float32" | "float16";
  /** Projections that get low-rank updates, fed at every run together with the per-token gate. */
  loraTargets?: readonly LoraTarget[];
  /**
   * The matrices of the updates of some projections that read one input, where they are not inputs of their own.
   * @param outputs where the projections are one product: every part of it in order, with or without an update
   */
  trainedLora?: (layer: number, targets: readonly LoraTarget[], outputs?: readonly LoraTarget[]) => StackedLora;
  /** Factor on every update, alpha / rank, where the matrices do not have it in them. */
  loraScale?: number;
  /**
   * What the LoRA of a projection reads in place of its input `x`, such as `x` after dropout; `rows` [picked] tells which
   * rows of [batch · seq] are in `x`, where not all are.
   */
  loraInput?: (layer: number, target: LoraTarget, x: Value, rows?: Value) => Value;
  /** Takes a [batch, seq, seq] matrix that replaces keys and values, after RoPE, by averages (CCM-merge and pooling, training form). */
  averaging?: boolean;
  /**
   * Inner tensors to return: `hidden.N` (input of layer N; N = layer count: after the last norm), `queries.N`,
   * `attention.N`, `attention_mean.N` (over heads: [batch, seq, past + seq]).
   */
  taps?: readonly string[];
}

/** Values that a graph computes itself where a decoder would declare inputs, such as those of a second decoder in it. */
export interface DecoderValues {
  /** [batch, 1, seq, past + seq], or, without a past, its causal blocks as `attention` takes them. */
  attentionBias?: (type: LayerType) => Value | readonly Value[];
  /** Tables [positions, rotaryDim / 2] of at least seq positions, and int64 [batch, seq]: the row of each token. */
  rotary?: (type: LayerType) => { cos: Value; sin: Value; rows: Value };
  /** [batch, seq, seq], in place of the input that `averaging` asks for. */
  averaging?: Value;
}

/** What one decoder inside a graph should offer. */
export interface EmitterOptions extends Omit<DecoderGraphOptions, "input" | "form"> {
  /** Whether layers take past rows and return new ones; default false. */
  cached?: boolean;
  values?: DecoderValues;
}

/** Names of graph inputs and outputs; the runtime feeds and fetches by these. */
export const DECODER_IO = {
  embeddings: "embeddings",
  inputIds: "input_ids",
  logitRows: "logit_rows",
  gate: "lora_gate",
  averaging: "averaging",
  logits: "logits",
  attentionBias: (type: LayerType): string => `attention_bias.${type}`,
  rotaryCos: (type: LayerType): string => `rotary_cos.${type}`,
  rotarySin: (type: LayerType): string => `rotary_sin.${type}`,
  pastKeys: (layer: number): string => `past_keys.${layer}`,
  pastValues: (layer: number): string => `past_values.${layer}`,
  newKeys: (layer: number): string => `new_keys.${layer}`,
  newValues: (layer: number): string => `new_values.${layer}`,
  loraA: (layer: number, target: string): string => `lora_a.${layer}.${target}`,
  loraB: (layer: number, target: string): string => `lora_b.${layer}.${target}`,
} as const;

/** The type a layer is treated as: sliding only where a window is set. */
export function effectiveLayerType(config: DecoderConfig, layer: number): LayerType {
  return config.slidingWindow === undefined ? "full" : (config.layerTypes[layer] ?? "full");
}

/** The layer types that occur in a model; each has its own bias and rotary inputs. */
export function layerTypesOf(config: DecoderConfig): LayerType[] {
  return [...new Set(config.layerTypes.map((_, layer) => effectiveLayerType(config, layer)))];
}

/** Sizes of a graph that are not the model's: names where a run decides, numbers where the graph is built for one size. */
export interface DecoderDims {
  batch: Dim;
  seq: Dim;
}
