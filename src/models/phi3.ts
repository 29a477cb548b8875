/** @file Phi-3 and Phi-4-mini: Llama with q, k, v stored as one matrix and gate, up as another. */
import { ConfigReader, readLayerTypes, type DecoderConfig } from "./config.js";
import { llamaConfig } from "./llama.js";

/** A Phi-3 `config.json` as a {@link DecoderConfig}. */
export function phi3Config(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  const config = new ConfigReader(raw);
  const slidingWindow = config.optionalNumber("sliding_window");
  return {
    ...llamaConfig(raw),
    slidingWindow,
    layerTypes: readLayerTypes(config, () => (slidingWindow === undefined ? "full" : "sliding")),
    fusedProjections: true,
  };
}
