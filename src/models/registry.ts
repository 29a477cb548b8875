/** @file The model families, by the `model_type` of their `config.json`. */
import { PrecisError } from "../errors.js";
import type { DecoderConfig } from "./config.js";
import { gemma3Config } from "./gemma3.js";
import { llamaConfig } from "./llama.js";
import { mistralConfig } from "./mistral.js";
import { phi3Config } from "./phi3.js";
import { qwen2Config } from "./qwen2.js";
import { qwen3Config } from "./qwen3.js";

/** Turns a parsed `config.json` into what the decoder graph needs. */
export type FamilyReader = (raw: Readonly<Record<string, unknown>>) => DecoderConfig;

/** Every supported family. */
export const FAMILIES: Readonly<Record<string, FamilyReader>> = {
  llama: llamaConfig,
  mistral: mistralConfig,
  qwen2: qwen2Config,
  qwen3: qwen3Config,
  phi3: phi3Config,
  gemma3_text: gemma3Config,
};

/**
 * The decoder of a parsed `config.json`.
 * @throws MODEL_UNSUPPORTED for a family not in {@link FAMILIES}; CONFIG_INVALID for a field out of range
 */
export function readDecoderConfig(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  const family = raw["model_type"];
  const reader = typeof family === "string" && Object.hasOwn(FAMILIES, family) ? FAMILIES[family] : undefined;
  if (reader !== undefined) return reader(raw);
  throw new PrecisError("MODEL_UNSUPPORTED", `Models of type ${JSON.stringify(family)} are not supported.`, {
    value: family,
    nextStep: `Supported types: ${Object.keys(FAMILIES).join(", ")}.`,
  });
}
