/** @file Qwen2 and Qwen2.5: Llama with biases on q, k and v. */
import { ConfigReader, readLayerTypes, type DecoderConfig } from "./config.js";
import { llamaConfig } from "./llama.js";

/** The sliding window of a Qwen config, whose last layers slide only where `use_sliding_window` says so. */
export function qwenWindow(config: ConfigReader): Pick<DecoderConfig, "slidingWindow" | "layerTypes"> {
  const slides = config.boolean("use_sliding_window", false);
  const firstSliding = config.raw["max_window_layers"];
  return {
    slidingWindow: slides ? config.optionalNumber("sliding_window") : undefined,
    layerTypes: readLayerTypes(config, (layer) => (slides && layer >= Number(firstSliding ?? 0) ? "sliding" : "full")),
  };
}

/** A Qwen2 `config.json` as a {@link DecoderConfig}. */
export function qwen2Config(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  return { ...llamaConfig(raw), ...qwenWindow(new ConfigReader(raw)), attentionBias: true, outputBias: false };
}
