/** @file Llama 1, 2 and 3, and every model that ships under the same architecture (SmolLM2, TinyLlama, Yi, …). */
import { ConfigReader, readActivation, readLayerTypes, type DecoderConfig } from "./config.js";
import { readRotary } from "./rotary.js";

/** A Llama `config.json` as a {@link DecoderConfig}; other families start from this and change what differs. */
export function llamaConfig(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  const config = new ConfigReader(raw);
  const hiddenSize = config.number("hidden_size");
  const queryHeads = config.number("num_attention_heads");
  const headDim = config.number("head_dim", hiddenSize / queryHeads);
  const rotary = readRotary(config, headDim);
  const attentionBias = config.boolean("attention_bias", false);
  return {
    family: String(raw["model_type"]),
    vocabSize: config.number("vocab_size"),
    hiddenSize,
    intermediateSize: config.number("intermediate_size"),
    layerCount: config.number("num_hidden_layers"),
    queryHeads,
    kvHeads: config.number("num_key_value_heads", queryHeads),
    headDim,
    maxPositions: rotary.maxPositions ?? config.number("max_position_embeddings"),
    normEpsilon: config.number("rms_norm_eps", 1e-6),
    normOffset: 0,
    activation: readActivation(config, "hidden_act", "silu"),
    attentionScale: 1 / Math.sqrt(headDim),
    embeddingScale: 1,
    layerTypes: readLayerTypes(config),
    slidingWindow: undefined,
    rotary: { full: rotary, sliding: rotary },
    attentionBias,
    outputBias: attentionBias,
    mlpBias: config.boolean("mlp_bias", false),
    headNorms: false,
    sandwichNorms: false,
    fusedProjections: false,
    tiedHead: config.boolean("tie_word_embeddings", false),
    logitSoftcap: undefined,
  };
}
