/** @file The configuration of a PEFT LoRA adapter: what is accepted, and the rank and scale of each module. */
import type { PrecisError } from "../errors.js";
import { invalidAdapter } from "./adapter-errors.js";
import { isRecord } from "./files.js";

/** What Precis adds to `adapter_config.json`: how the adapter compresses. */
export interface PrecisAdapterInfo {
  /** Memory method that the adapter was trained for. */
  method: string;
  /** COMP tokens per time step; 0 for a method without them. */
  compTokens: number;
  /** Whether the LoRA acts at COMP tokens only; default true. */
  gated?: boolean;
  /** Fingerprint of the model that the adapter was trained on. */
  base?: string;
  trainingSummary?: Record<string, unknown>;
  [key: string]: unknown;
}

/** A checked `adapter_config.json`. */
export interface AdapterConfig {
  /** Rank, where no pattern sets another. */
  r: number;
  /** Numerator of the scale, where no pattern sets another. */
  alpha: number;
  /** Last parts of the names of adapted modules, such as `q_proj`. */
  targetModules: readonly string[];
  precis?: PrecisAdapterInfo;
  /** Whether the LoRA acts at COMP tokens only: true when `precis` is there and does not say otherwise. */
  gated: boolean;
  /** The whole JSON object. */
  raw: Record<string, unknown>;
}

/** Fields of PEFT that are checked below, or whose value does not change what a trained adapter computes. */
const KNOWN_FIELDS: ReadonlySet<string> = new Set(
  [
    ["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "precis"],
    ["peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "inference_mode"],
    ["auto_mapping", "parent_library", "lora_dropout", "fan_in_fan_out", "init_lora_weights", "exclude_modules"],
    ["layers_to_transform", "layers_pattern", "loftq_config", "eva_config", "corda_config", "runtime_config"],
    ["megatron_config", "megatron_core", "qalora_group_size"],
  ].flat(),
);
/** Initialisations that also change the base model, so that the adapter does not fit the original. */
const BASE_CHANGING_INITS: RegExp = /^(pissa|olora|corda|loftq|lora_ga)/i;

/**
 * Checks the JSON of an `adapter_config.json`.
 * @throws ADAPTER_INVALID for another adapter type, malformed numbers, or a feature that is not supported
 */
export function parseAdapterConfig(raw: Record<string, unknown>, directory: string): AdapterConfig {
  const fail = (problem: string, nextStep?: string): PrecisError => invalidAdapter(directory, problem, nextStep);
  if (raw.peft_type !== "LORA") throw fail(`has peft_type ${JSON.stringify(raw.peft_type)}; only "LORA" is supported`);
  if (raw.bias !== undefined && raw.bias !== "none") {
    throw fail(
      `trains biases (bias ${JSON.stringify(raw.bias)}), which is not supported`,
      'Train it with bias "none".',
    );
  }
  const { init_lora_weights: init } = raw;
  if (typeof init === "string" && BASE_CHANGING_INITS.test(init)) {
    throw fail(`was initialised by ${init}, which changes the base model too`, "Convert it to a plain LoRA with PEFT.");
  }
  for (const [key, value] of Object.entries(raw)) {
    if (KNOWN_FIELDS.has(key) || isInactive(value)) continue;
    throw fail(`uses ${key} (${JSON.stringify(value)}), which is not supported`, "Train a plain LoRA.");
  }
  const { r, lora_alpha: alpha } = raw;
  if (!isRank(r)) throw fail(`has r ${JSON.stringify(r)}, which must be a whole number above 0`);
  if (!isAlpha(alpha)) throw fail(`has lora_alpha ${JSON.stringify(alpha)}, which must be a number above 0`);
  checkPattern("rank_pattern", raw.rank_pattern, isRank, directory);
  checkPattern("alpha_pattern", raw.alpha_pattern, isAlpha, directory);
  const precis = raw.precis === undefined ? undefined : parsePrecis(raw.precis, directory);
  const targetModules = parseTargets(raw.target_modules, directory);
  const gated = precis !== undefined && precis.gated !== false;
  return { r, alpha, targetModules, ...(precis && { precis }), gated, raw };
}

/** A PEFT field at a value that switches its feature off. Newer versions of PEFT add fields at such values. */
function isInactive(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  if (isRecord(value)) return Object.keys(value).length === 0;
  return value === null || value === undefined || value === false || value === "";
}

function isRank(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function isAlpha(value: unknown): value is number {
  return Number.isFinite(value) && (value as number) > 0;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The listed names; none for a pattern such as `"all-linear"`, which the weights themselves resolve. */
function parseTargets(targets: unknown, directory: string): readonly string[] {
  if (typeof targets === "string") return [];
  if (Array.isArray(targets) && targets.every((target) => typeof target === "string")) return targets;
  throw invalidAdapter(directory, `has target_modules ${JSON.stringify(targets)}, which must list module names`);
}

function parsePrecis(precis: unknown, directory: string): PrecisAdapterInfo {
  const fail = (problem: string): PrecisError =>
    invalidAdapter(directory, problem, "Train it again with `precis train`.");
  if (!isRecord(precis)) throw fail(`has a "precis" field that is ${JSON.stringify(precis)}, not an object`);
  const { method, compTokens, gated, base, trainingSummary, ...rest } = precis;
  if (typeof method !== "string" || method === "")
    throw fail(`has precis.method ${JSON.stringify(method)}, not a name`);
  if (!isCount(compTokens)) throw fail(`has precis.compTokens ${JSON.stringify(compTokens)}, not a count`);
  if (gated !== undefined && typeof gated !== "boolean") {
    throw fail(`has precis.gated ${JSON.stringify(gated)}, not true or false`);
  }
  if (base !== undefined && typeof base !== "string") {
    throw fail(`has precis.base ${JSON.stringify(base)}, not a fingerprint`);
  }
  if (trainingSummary !== undefined && !isRecord(trainingSummary)) {
    throw fail("has a precis.trainingSummary that is not an object");
  }
  return {
    ...rest,
    method,
    compTokens,
    ...(gated === undefined ? {} : { gated }),
    ...(base && { base }),
    ...(trainingSummary && { trainingSummary }),
  };
}

function checkPattern(name: string, pattern: unknown, isValid: (value: unknown) => boolean, directory: string): void {
  if (pattern === undefined || pattern === null) return;
  if (!isRecord(pattern)) throw invalidAdapter(directory, `has a ${name} that is not an object`);
  for (const [key, value] of Object.entries(pattern)) {
    if (!isValid(value)) throw invalidAdapter(directory, `has ${name}["${key}"] ${JSON.stringify(value)}`);
    try {
      RegExp(key);
    } catch {
      throw invalidAdapter(directory, `has a ${name} with "${key}", which is not a regular expression`);
    }
  }
}

/** The rank that the configuration gives to a module such as `layers.0.self_attn.q_proj`. */
export function rankOf(config: AdapterConfig, module: string): number {
  return matchPattern(config.raw.rank_pattern, module) ?? config.r;
}

/** The factor of a module's update: alpha / rank, or alpha / √rank for rank-stabilised LoRA. */
export function scaleOf(config: AdapterConfig, module: string): number {
  const rank = rankOf(config, module);
  const alpha = matchPattern(config.raw.alpha_pattern, module) ?? config.alpha;
  return alpha / (config.raw.use_rslora === true ? Math.sqrt(rank) : rank);
}

/** The value of the first pattern that ends the module's name, as PEFT matches them. */
function matchPattern(pattern: unknown, module: string): number | undefined {
  if (!isRecord(pattern)) return undefined;
  const found = Object.entries(pattern).find(([key]) => RegExp(`^(?:.*\\.)?(?:${key})$`).test(`model.${module}`));
  return found?.[1] as number | undefined;
}
