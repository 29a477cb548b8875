/** @file What the reference decoder reads from a Hugging Face config. */

/** Sizes and constants of a Llama-family decoder. */
export interface DecoderConfig {
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  epsilon: number;
  /** Tokens that a token sees, itself included; Infinity without a window. */
  window: number;
  /** Rotary angle per position of each pair of features, [headDim / 2]. */
  inverseFrequencies: Float64Array;
}

type Json = Record<string, unknown>;

/** Llama 3.1 scaling: long wavelengths are stretched by `factor`, short ones kept, those between interpolated. */
function scaleLlama3(frequency: number, rope: Json): number {
  const { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } = rope as Record<
    string,
    number
  >;
  const turns = (original_max_position_embeddings * frequency) / (2 * Math.PI);
  if (turns < low_freq_factor) return frequency / factor;
  if (turns > high_freq_factor) return frequency;
  const smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

function inverseFrequencies(config: Json, headDim: number): Float64Array {
  // transformers 5 writes rope_parameters, earlier ones rope_theta and rope_scaling.
  const old = { rope_theta: config["rope_theta"], ...(config["rope_scaling"] as Json | null | undefined) };
  const rope = (config["rope_parameters"] ?? old) as Json;
  const type = rope["rope_type"] ?? rope["type"] ?? "default";
  if (type !== "default" && type !== "llama3") throw new Error(`The reference decoder has no ${String(type)} RoPE`);
  const theta = (rope["rope_theta"] ?? config["rope_theta"] ?? 10_000) as number;
  const plain = Float64Array.from({ length: headDim / 2 }, (_, i) => theta ** ((-2 * i) / headDim));
  return type === "llama3" ? plain.map((frequency) => scaleLlama3(frequency, rope)) : plain;
}

/** Reads a `config.json`. Throws on a family or RoPE type that the reference decoder does not have. */
export function readDecoderConfig(config: Json): DecoderConfig {
  const family = config["model_type"] as string;
  if (!["llama", "mistral", "qwen2", "qwen3", "phi3"].includes(family)) throw new Error(`No reference for ${family}`);
  const number = (key: string): number => config[key] as number;
  const headDim = (config["head_dim"] as number | undefined) ?? number("hidden_size") / number("num_attention_heads");
  const windowed = config["use_sliding_window"] !== false && typeof config["sliding_window"] === "number";
  return {
    vocabSize: number("vocab_size"),
    hiddenSize: number("hidden_size"),
    intermediateSize: number("intermediate_size"),
    layers: number("num_hidden_layers"),
    queryHeads: number("num_attention_heads"),
    kvHeads: number("num_key_value_heads"),
    headDim,
    epsilon: number("rms_norm_eps"),
    window: windowed ? number("sliding_window") : Infinity,
    inverseFrequencies: inverseFrequencies(config, headDim),
  };
}
