/** @file LoRA adapters in the PEFT layout, with the embeddings of COMP tokens beside them. */
import { createHash } from "node:crypto";
import { join, resolve } from "node:path";
import { PrecisError } from "../errors.js";
import type { FloatDType } from "../tensor/dtype.js";
import { parseAdapterConfig, type AdapterConfig } from "./adapter-config.js";
import {
  checkCompEmbeddings,
  readCompEmbeddings,
  writeCompEmbeddings,
  type CompEmbeddings,
} from "./comp-embeddings.js";
import { canonicalJson, readJsonObject, writeFileAtomic } from "./files.js";
import {
  checkPair,
  checkTargets,
  pairTensors,
  readPairs,
  scalePairs,
  writePairTensors,
  type LoraPair,
} from "./lora-pairs.js";

/** A loaded adapter. */
export interface Adapter {
  /** Absolute path of its folder. */
  directory: string;
  config: AdapterConfig;
  /** Updates by module, such as `layers.0.self_attn.q_proj` or `layers.0.mlp.up_proj`. */
  lora: ReadonlyMap<string, LoraPair>;
  compEmbeddings?: CompEmbeddings;
  /** sha256 in hex of everything that changes what the adapter computes. */
  fingerprint: string;
  /** What the user should know, as sentences. */
  warnings: readonly string[];
}

const CONFIG_FILE = "adapter_config.json";

/**
 * Loads the adapter in `directory` for the model `base`.
 * @throws FILE_NOT_FOUND if a file is missing; ADAPTER_MISMATCH if it was made for another model; ADAPTER_INVALID if
 * it is damaged or uses a feature of PEFT that is not supported
 */
export async function loadAdapter(
  directory: string,
  base: { fingerprint: string; hiddenSize: number },
): Promise<Adapter> {
  const folder = resolve(directory);
  const nextStep = "Give the folder of an adapter saved by Precis or PEFT.";
  const parsed = parseAdapterConfig(await readJsonObject(join(folder, CONFIG_FILE), nextStep), folder);
  const warnings = checkBase(parsed, base.fingerprint, folder);
  const stored = await readPairs(folder);
  const config = { ...parsed, targetModules: checkTargets(parsed.targetModules, [...stored.keys()], folder) };
  for (const [module, pair] of stored) checkPair(config, module, pair, folder, base.hiddenSize);
  const compEmbeddings = await readCompEmbeddings(folder, config.precis?.compTokens ?? 0, base.hiddenSize);
  const fingerprint = fingerprintAdapter(config, stored, compEmbeddings);
  const lora = scalePairs(config, stored);
  return { directory: folder, config, lora, ...(compEmbeddings && { compEmbeddings }), fingerprint, warnings };
}

/**
 * Saves an adapter so that {@link loadAdapter} and PEFT load it. Each file is replaced whole, the configuration last.
 * @param options.dtype of the LoRA matrices; embeddings stay float32
 * @throws ADAPTER_INVALID if the parts contradict each other or hold NaN
 */
export async function saveAdapter(
  directory: string,
  adapter: Pick<Adapter, "config" | "lora" | "compEmbeddings">,
  { dtype = "float32" }: { dtype?: FloatDType } = {},
): Promise<void> {
  const folder = resolve(directory);
  const json = configJson(adapter.config);
  const config = parseAdapterConfig(json, folder);
  checkTargets(config.targetModules, [...adapter.lora.keys()], folder);
  const tensors = pairTensors(config, adapter.lora, dtype, folder);
  const { compEmbeddings } = adapter;
  checkCompEmbeddings(compEmbeddings, config.precis?.compTokens ?? 0, folder);

  await writePairTensors(folder, tensors);
  await writeCompEmbeddings(folder, compEmbeddings);
  await writeFileAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(json, undefined, 2)}\n`);
}

function configJson({ r, alpha, targetModules, precis, raw }: AdapterConfig): Record<string, unknown> {
  return {
    task_type: "CAUSAL_LM",
    base_model_name_or_path: null,
    inference_mode: true,
    lora_dropout: 0,
    ...raw,
    peft_type: "LORA",
    bias: "none",
    r,
    lora_alpha: alpha,
    target_modules: [...targetModules],
    precis,
  };
}

/** Warnings about the model that the adapter belongs to; ADAPTER_MISMATCH if it is another one. */
function checkBase(config: AdapterConfig, fingerprint: string, folder: string): string[] {
  const base = config.precis?.base;
  if (base === undefined) {
    return [`The adapter in ${folder} does not record which model it was made for, so only its shapes were checked.`];
  }
  if (base === fingerprint) return [];
  const message = `The adapter in ${folder} was made for the model ${base}, but this model is ${fingerprint}.`;
  throw new PrecisError("ADAPTER_MISMATCH", message, { nextStep: "Load the model it was trained on, or train again." });
}

/** Training notes and storage formats do not change what an adapter computes, so they do not count. */
function fingerprintAdapter(
  { r, alpha, precis, raw }: AdapterConfig,
  stored: ReadonlyMap<string, LoraPair>,
  compEmbeddings: CompEmbeddings | undefined,
): string {
  const { rank_pattern: ranks, alpha_pattern: alphas, use_rslora: stabilised } = raw;
  const settings = { r, alpha, precis, ranks: ranks ?? {}, alphas: alphas ?? {}, stabilised: stabilised === true };
  const hash = createHash("sha256").update(canonicalJson(settings, new Set(["base", "trainingSummary"])));
  for (const [module, { a, b, rank }] of [...stored].sort(([first], [second]) => (first < second ? -1 : 1))) {
    hash.update(`\n${module} ${rank} ${a.length} ${b.length}\n`).update(a).update(b);
  }
  if (compEmbeddings !== undefined) hash.update(`\n${compEmbeddings.count}\n`).update(compEmbeddings.data);
  if (compEmbeddings?.summaryGain !== undefined) hash.update("\n").update(compEmbeddings.summaryGain);
  return hash.digest("hex");
}
