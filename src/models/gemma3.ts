/** @file Gemma 3, text only: norms around every block, two rotary bases, five sliding layers to each full one. */
import { ConfigReader, readActivation, readLayerTypes, type DecoderConfig } from "./config.js";
import { llamaConfig } from "./llama.js";
import { rotaryConfig } from "./rotary.js";

/** A Gemma 3 text `config.json` as a {@link DecoderConfig}. */
export function gemma3Config(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  const config = new ConfigReader(raw);
  const nested = config.object("rope_parameters");
  // Newer files keep one set of RoPE parameters per layer type, older ones flat fields.
  const full = nested?.["full_attention"] ?? {
    rope_theta: config.number("rope_theta", 1_000_000),
    ...config.object("rope_scaling"),
  };
  const sliding = nested?.["sliding_attention"] ?? { rope_theta: config.number("rope_local_base_freq", 10_000) };
  const pattern = config.number("sliding_window_pattern", config.number("_sliding_window_pattern", 6));
  const base = llamaConfig({ head_dim: 256, ...raw, rope_parameters: full });
  return {
    ...base,
    normOffset: 1,
    activation: readActivation(config, "hidden_activation", "gelu_pytorch_tanh"),
    attentionScale: config.number("query_pre_attn_scalar", 256) ** -0.5,
    embeddingScale: Math.sqrt(base.hiddenSize),
    slidingWindow: config.number("sliding_window", 4096),
    layerTypes: readLayerTypes(config, (layer) => ((layer + 1) % pattern === 0 ? "full" : "sliding")),
    rotary: {
      full: base.rotary.full,
      sliding: rotaryConfig(sliding as Readonly<Record<string, unknown>>, base.headDim, base.maxPositions),
    },
    headNorms: true,
    sandwichNorms: true,
    tiedHead: config.boolean("tie_word_embeddings", true),
    logitSoftcap: config.optionalNumber("final_logit_softcapping"),
  };
}
