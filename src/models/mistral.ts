/** @file Mistral: Llama with a sliding attention window in every layer. */
import { ConfigReader, readLayerTypes, type DecoderConfig } from "./config.js";
import { llamaConfig } from "./llama.js";

/** A Mistral `config.json` as a {@link DecoderConfig}. */
export function mistralConfig(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  const config = new ConfigReader(raw);
  const slidingWindow = config.optionalNumber("sliding_window");
  return {
    ...llamaConfig(raw),
    slidingWindow,
    layerTypes: readLayerTypes(config, () => (slidingWindow === undefined ? "full" : "sliding")),
  };
}
