/** @file What the decoder graph needs to know of a model, and careful reading of `config.json`. */
import { PrecisError } from "../errors.js";
import type { RotaryConfig } from "./rotary.js";

/** Whether a layer attends to everything before it or only to a window. */
export type LayerType = "full" | "sliding";

/** A decoder-only transformer, independent of the family it came from. Sizes are in elements, positions in tokens. */
export interface DecoderConfig {
  /** `model_type` of `config.json`. */
  readonly family: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layerCount: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Longest span of positions the model was made for. */
  readonly maxPositions: number;
  readonly normEpsilon: number;
  /** Added to every RMS-norm weight before use (Gemma stores weights minus one). */
  readonly normOffset: number;
  readonly activation: "silu" | "gelu" | "gelu-tanh";
  /** Factor on attention scores before the softmax. */
  readonly attentionScale: number;
  /** Factor on token embeddings as they enter the first layer. */
  readonly embeddingScale: number;
  readonly layerTypes: readonly LayerType[];
  /** Number of positions, the own one included, that a sliding layer sees. */
  readonly slidingWindow: number | undefined;
  /** Rotary embedding of each layer type. */
  readonly rotary: Readonly<Record<LayerType, RotaryConfig>>;
  readonly attentionBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMS norms on each query and key head (Qwen3, Gemma 3). */
  readonly headNorms: boolean;
  /** Norms after attention and MLP as well as before them (Gemma 3). */
  readonly sandwichNorms: boolean;
  /** The checkpoint stores q, k, v as `qkv_proj` and gate, up as `gate_up_proj` (Phi-3). */
  readonly fusedProjections: boolean;
  /** The output head is the embedding table. */
  readonly tiedHead: boolean;
  /** Limit of tanh soft-capping on the logits. */
  readonly logitSoftcap: number | undefined;
}

/** Reads fields of a parsed `config.json`, with errors that name the field. */
export class ConfigReader {
  readonly raw: Readonly<Record<string, unknown>>;

  constructor(raw: Readonly<Record<string, unknown>>) {
    this.raw = raw;
  }

  /** A positive number; `fallback` is used where the field is missing or null. */
  number(field: string, fallback?: number): number {
    const value = this.raw[field] ?? fallback;
    if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
    throw new PrecisError(
      "CONFIG_INVALID",
      `config.json: "${field}" must be a positive number, not ${JSON.stringify(value)}.`,
      {
        value,
        nextStep: "Compare the file with the model's page and download it again if it was changed.",
      },
    );
  }

  /** A positive number, or undefined where the field is missing or null. */
  optionalNumber(field: string): number | undefined {
    return this.raw[field] === undefined || this.raw[field] === null ? undefined : this.number(field);
  }

  /** A boolean; `fallback` where missing. */
  boolean(field: string, fallback: boolean): boolean {
    const value = this.raw[field] ?? fallback;
    if (typeof value === "boolean") return value;
    throw new PrecisError(
      "CONFIG_INVALID",
      `config.json: "${field}" must be true or false, not ${JSON.stringify(value)}.`,
      { value },
    );
  }

  /** A nested object, or undefined where missing. */
  object(field: string): Readonly<Record<string, unknown>> | undefined {
    const value = this.raw[field];
    if (value === undefined || value === null) return undefined;
    if (typeof value === "object" && !Array.isArray(value)) return value as Record<string, unknown>;
    throw new PrecisError(
      "CONFIG_INVALID",
      `config.json: "${field}" must be an object, not ${JSON.stringify(value)}.`,
      { value },
    );
  }
}

const ACTIVATIONS: Readonly<Record<string, DecoderConfig["activation"]>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "gelu-tanh",
  gelu_fast: "gelu-tanh",
  gelu_pytorch_tanh: "gelu-tanh",
};

/** The activation function named in a config. */
export function readActivation(config: ConfigReader, field: string, fallback: string): DecoderConfig["activation"] {
  const name = config.raw[field] ?? fallback;
  const activation = typeof name === "string" ? ACTIVATIONS[name] : undefined;
  if (activation !== undefined) return activation;
  throw new PrecisError("MODEL_UNSUPPORTED", `The activation function ${JSON.stringify(name)} is not supported.`, {
    value: name,
    nextStep: `Supported: ${Object.keys(ACTIVATIONS).join(", ")}.`,
  });
}

/** The type of every layer: from `layer_types` where given, else `typeOf`, else all full. */
export function readLayerTypes(config: ConfigReader, typeOf?: (layer: number) => LayerType): LayerType[] {
  const layerCount = config.number("num_hidden_layers");
  const listed = config.raw["layer_types"];
  if (Array.isArray(listed) && listed.length === layerCount) {
    return listed.map((type) => (type === "sliding_attention" ? "sliding" : "full"));
  }
  return Array.from({ length: layerCount }, (_, layer) => typeOf?.(layer) ?? "full");
}
