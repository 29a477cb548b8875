/** @file Reads the text files of a model directory: tokenizer.json, tokenizer_config.json, special_tokens_map.json. */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { PrecisError } from "../errors.js";

/** A parsed JSON object whose fields are not known yet. */
export type JsonObject = Record<string, unknown>;

/** One decoder step of a tokenizer.json, as far as this library looks into it. */
export interface DecoderDefinition {
  type: string;
  decoders?: DecoderDefinition[];
  pattern?: { String?: string };
  content?: string;
  start?: number;
  stop?: number;
  replacement?: string;
}

/** The parts of a tokenizer.json that this library looks into; the rest is passed on as it is. */
export interface TokenizerDefinition {
  added_tokens: { id: number; content: string; special?: boolean }[];
  decoder: DecoderDefinition | null;
  model: { vocab: unknown; merges?: unknown; unk_token?: string | null; unk_id?: number | null };
}

/** What a model directory says about its tokenizer. */
export interface TokenizerFiles {
  definition: TokenizerDefinition;
  config: JsonObject;
  /** sha256 of the bytes of tokenizer.json, in hex. */
  hash: string;
}

/** Names of the special tokens that a tokenizer_config.json may set, and that chat templates get as variables. */
export const SPECIAL_TOKEN_KEYS = [
  "bos_token",
  "eos_token",
  "unk_token",
  "pad_token",
  "sep_token",
  "cls_token",
  "mask_token",
] as const;

/** The bytes of a file, or undefined where there is none. */
export async function readOptional(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${path}`, "Check that it is a readable file.");
  }
}

/** `bytes` of the file `path` as a JSON object. Throws FILE_INVALID, with the parser's reason, for anything else. */
export function parseJsonObject(bytes: Uint8Array, path: string): JsonObject {
  const nextStep = "Download the model again, or restore the file.";
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw PrecisError.from(error, "FILE_INVALID", `${path} is not valid JSON`, nextStep);
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw new PrecisError("FILE_INVALID", `${path} holds no JSON object.`, { nextStep });
}

/** The JSON object in the file `path`, or undefined where there is none. Throws FILE_INVALID for malformed content. */
export async function readJsonObject(path: string): Promise<JsonObject | undefined> {
  const bytes = await readOptional(path);
  return bytes === undefined ? undefined : parseJsonObject(bytes, path);
}

/** tokenizer_config.json over special_tokens_map.json; `{}` where a directory has neither. */
export async function readTokenizerConfig(dir: string): Promise<JsonObject> {
  const fallback = await readJsonObject(join(dir, "special_tokens_map.json"));
  const config = await readJsonObject(join(dir, "tokenizer_config.json"));
  return { ...fallback, ...config };
}

/** The text of a special token that a config gives as a string or as an object with `content`. */
export function specialTokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/**
 * Read the tokenizer of a model directory.
 * Throws FILE_NOT_FOUND where tokenizer.json is missing, FILE_INVALID where a file is malformed.
 */
export async function readTokenizerFiles(dir: string): Promise<TokenizerFiles> {
  const path = join(dir, "tokenizer.json");
  const bytes = await readOptional(path);
  if (bytes === undefined) {
    throw new PrecisError("FILE_NOT_FOUND", `There is no tokenizer.json in ${dir}.`, {
      value: dir,
      nextStep: "Point at a model directory that has one; a model with only tokenizer.model must be converted first.",
    });
  }
  const definition = parseJsonObject(bytes, path) as unknown as TokenizerDefinition;
  definition.added_tokens ??= [];
  if (typeof definition.model !== "object" || definition.model === null || !Array.isArray(definition.added_tokens)) {
    throw new PrecisError("FILE_INVALID", `${path} describes no tokenizer: it lacks "model".`, {
      nextStep: "Use the tokenizer.json that the tokenizers library writes.",
    });
  }
  const config = await readTokenizerConfig(dir);
  return { definition, config, hash: createHash("sha256").update(bytes).digest("hex") };
}
