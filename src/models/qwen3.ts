/** @file Qwen3: Llama with RMS norms on every query and key head. */
import { ConfigReader, type DecoderConfig } from "./config.js";
import { llamaConfig } from "./llama.js";
import { qwenWindow } from "./qwen2.js";

/** A Qwen3 `config.json` as a {@link DecoderConfig}. */
export function qwen3Config(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  return { ...llamaConfig({ head_dim: 128, ...raw }), ...qwenWindow(new ConfigReader(raw)), headNorms: true };
}
