/** @file LoRA adapters in the PEFT layout, with the embeddings of COMP tokens beside them. */
import { createHash } from "node:crypto";
import { access, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { PrecisError } from "../errors.js";
import { invalidAdapter, parseAdapterConfig, rankOf, scaleOf, type AdapterConfig } from "./adapter-config.js";
import { fromFloat32, type FloatDType } from "../tensor/dtype.js";
import { canonicalJson, readJsonObject, writeFileAtomic } from "./files.js";
import {
  readSafetensorsHeader,
  readTensor,
  writeSafetensors,
  type TensorData,
  type TensorEntry,
} from "./safetensors.js";

export type { AdapterConfig, PrecisAdapterInfo } from "./adapter-config.js";

/** The low-rank update b · a of one linear layer. */
export interface LoraPair {
  /** [rank, in] */
  a: Float32Array;
  /** [out, rank], already scaled. */
  b: Float32Array;
  rank: number;
  inFeatures: number;
  outFeatures: number;
}

/** Embeddings of the COMP tokens. */
export interface CompEmbeddings {
  /** [count, hiddenSize] */
  data: Float32Array;
  count: number;
  hiddenSize: number;
  /** [hiddenSize], the factor on summary vectors as they are read; only for methods that pass summaries on. */
  summaryGain?: Float32Array;
}

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
const WEIGHTS_FILE = "adapter_model.safetensors";
const COMP_FILE = "comp_embeddings.safetensors";
const COMP_TENSOR = "comp_embeddings";
const GAIN_TENSOR = "summary_gain";
/** The projections an adapter may change, and which side of each has the model's hidden size. */
const PROJECTIONS: Readonly<Record<string, "in" | "out">> = {
  "self_attn.q_proj": "in",
  "self_attn.k_proj": "in",
  "self_attn.v_proj": "in",
  "self_attn.o_proj": "out",
  "mlp.gate_proj": "in",
  "mlp.up_proj": "in",
  "mlp.down_proj": "out",
};
const TENSOR_NAME: RegExp = /^base_model\.model\.(?:model\.)?(layers\.\d+\.(.+))\.lora_([AB])(?:\.default)?\.weight$/;

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
  const lora = new Map([...stored].map(([module, pair]) => [module, scaleB(pair, scaleOf(config, module))]));
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
  const tensors = new Map<string, TensorData>();
  for (const [module, pair] of adapter.lora) {
    const { a, b } = scaleB(pair, 1 / scaleOf(config, module));
    checkPair(config, module, { ...pair, a, b }, folder);
    const { rank, inFeatures, outFeatures } = pair;
    tensors.set(tensorName(module, "A"), tensorOf(a, [rank, inFeatures], dtype));
    tensors.set(tensorName(module, "B"), tensorOf(b, [outFeatures, rank], dtype));
  }
  const { compEmbeddings } = adapter;
  checkCompEmbeddings(compEmbeddings, config.precis?.compTokens ?? 0, folder);

  await writeSafetensors(join(folder, WEIGHTS_FILE), tensors, { format: "pt" });
  if (compEmbeddings === undefined) {
    await rm(join(folder, COMP_FILE), { force: true });
  } else {
    const { data, count, hiddenSize, summaryGain } = compEmbeddings;
    const rows: Record<string, TensorData> = {
      [COMP_TENSOR]: { dtype: "float32", shape: [count, hiddenSize], data },
      ...(summaryGain && { [GAIN_TENSOR]: { dtype: "float32", shape: [hiddenSize], data: summaryGain } }),
    };
    await writeSafetensors(join(folder, COMP_FILE), rows, { format: "pt" });
  }
  await writeFileAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(json, undefined, 2)}\n`);
}

/** Values as a tensor of a file. */
function tensorOf(values: Float32Array, shape: readonly number[], dtype: FloatDType): TensorData {
  return { dtype, shape, data: fromFloat32(values, dtype) };
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

/** The modules an adapter changes: those it lists, or if it lists none, those it has weights for. */
function checkTargets(listed: readonly string[], modules: readonly string[], folder: string): readonly string[] {
  const isTarget = (module: string, target: string): boolean => module === target || module.endsWith(`.${target}`);
  const empty = listed.find((target) => !modules.some((module) => isTarget(module, target)));
  if (empty !== undefined) throw invalidAdapter(folder, `lists the target module "${empty}" but has no weights for it`);
  if (listed.length === 0) return [...new Set(modules.map((module) => module.split(".").at(-1) as string))].sort();
  const stray = modules.find((module) => !listed.some((target) => isTarget(module, target)));
  if (stray === undefined) return listed;
  throw invalidAdapter(folder, `has weights for "${stray}", which target_modules does not list`);
}

function tensorName(module: string, half: "A" | "B"): string {
  return `base_model.model.model.${module}.lora_${half}.weight`;
}

/** The module and half that a tensor belongs to, or ADAPTER_INVALID if it is not part of a supported LoRA. */
function parseTensorName(name: string, folder: string): { module: string; half: "A" | "B" } {
  const [, module, projection, half] = TENSOR_NAME.exec(name) ?? [];
  if (module !== undefined && Object.hasOwn(PROJECTIONS, projection as string)) {
    return { module, half: half as "A" | "B" };
  }
  const nextStep = `Train a LoRA of ${Object.keys(PROJECTIONS).join(", ")} only.`;
  throw invalidAdapter(folder, `has the tensor "${name}", which is not supported`, nextStep);
}

/** The pairs as stored, not scaled. */
async function readPairs(folder: string): Promise<Map<string, LoraPair>> {
  const { tensors } = await readSafetensorsHeader(join(folder, WEIGHTS_FILE));
  const halves = new Map<string, { A?: TensorEntry; B?: TensorEntry }>();
  for (const entry of tensors.values()) {
    const { module, half } = parseTensorName(entry.name, folder);
    halves.set(module, { ...halves.get(module), [half]: entry });
  }
  if (halves.size === 0) throw invalidAdapter(folder, "has no weights", "Download or train it again.");
  const pairs = new Map<string, LoraPair>();
  for (const [module, { A, B }] of halves) {
    if (A === undefined || B === undefined) {
      throw invalidAdapter(folder, `lacks lora_${A === undefined ? "A" : "B"} of "${module}"`);
    }
    const [rank = 0, inFeatures = 0] = A.shape;
    const [outFeatures = 0, rankOfB] = B.shape;
    if (A.shape.length !== 2 || B.shape.length !== 2 || rankOfB !== rank) {
      const shapes = `lora_A [${A.shape.join(", ")}] and lora_B [${B.shape.join(", ")}]`;
      throw invalidAdapter(folder, `gives "${module}" ${shapes}, which do not fit together`);
    }
    pairs.set(module, { a: await readTensor(A), b: await readTensor(B), rank, inFeatures, outFeatures });
  }
  return pairs;
}

function scaleB(pair: LoraPair, scale: number): LoraPair {
  return { ...pair, b: pair.b.map((value) => value * scale) };
}

function checkPair(config: AdapterConfig, module: string, pair: LoraPair, folder: string, hiddenSize?: number): void {
  parseTensorName(tensorName(module, "A"), folder);
  const { a, b, rank, inFeatures, outFeatures } = pair;
  const declared = rankOf(config, module);
  if (rank !== declared) {
    throw invalidAdapter(folder, `gives "${module}" rank ${rank}, but its configuration says ${declared}`);
  }
  if (a.length !== rank * inFeatures || b.length !== outFeatures * rank) {
    const sizes = `${a.length} and ${b.length} values for rank ${rank}, ${inFeatures} inputs, ${outFeatures} outputs`;
    throw invalidAdapter(folder, `gives "${module}" ${sizes}`);
  }
  if (hiddenSize !== undefined) {
    const side = PROJECTIONS[module.split(".").slice(2).join(".")] === "in" ? inFeatures : outFeatures;
    if (side !== hiddenSize) throw sizeMismatch(folder, `"${module}"`, side, hiddenSize);
  }
  checkFinite(a, `lora_A of "${module}"`, folder);
  checkFinite(b, `lora_B of "${module}"`, folder);
}

function sizeMismatch(folder: string, part: string, size: number, hiddenSize: number): PrecisError {
  const message = `The adapter in ${folder} has ${part} for a hidden size of ${size}, but this model's is ${hiddenSize}.`;
  return new PrecisError("ADAPTER_MISMATCH", message, { nextStep: "Load the model it was trained on." });
}

function checkFinite(values: Float32Array, part: string, folder: string): void {
  const index = values.findIndex((value) => !Number.isFinite(value));
  if (index >= 0)
    throw invalidAdapter(folder, `holds ${values[index]} at element ${index} of ${part}`, "Train it again.");
}

async function readCompEmbeddings(
  folder: string,
  compTokens: number,
  hiddenSize: number,
): Promise<CompEmbeddings | undefined> {
  const file = join(folder, COMP_FILE);
  const exists = await access(file).then(
    () => true,
    () => false,
  );
  const tensors = exists ? (await readSafetensorsHeader(file)).tensors : undefined;
  const [entry, gain] = [tensors?.get(COMP_TENSOR), tensors?.get(GAIN_TENSOR)];
  if (exists && entry?.shape.length !== 2) {
    throw invalidAdapter(folder, `has a ${COMP_FILE} without a matrix named "${COMP_TENSOR}"`);
  }
  const [count = 0, size = 0] = entry?.shape ?? [];
  const summaryGain = gain && { summaryGain: await readTensor(gain) };
  const embeddings = entry && { data: await readTensor(entry), count, hiddenSize: size, ...summaryGain };
  checkCompEmbeddings(embeddings, compTokens, folder);
  if (embeddings !== undefined && size !== hiddenSize) throw sizeMismatch(folder, COMP_FILE, size, hiddenSize);
  return embeddings;
}

function checkCompEmbeddings(embeddings: CompEmbeddings | undefined, compTokens: number, folder: string): void {
  const count = embeddings?.count ?? 0;
  if (count !== compTokens) {
    const nextStep = `Restore ${COMP_FILE}, or train it again.`;
    throw invalidAdapter(
      folder,
      `has embeddings for ${count} COMP tokens, but precis.compTokens is ${compTokens}`,
      nextStep,
    );
  }
  if (embeddings === undefined) return;
  if (embeddings.data.length !== count * embeddings.hiddenSize) {
    throw invalidAdapter(
      folder,
      `has ${embeddings.data.length} values for ${count} COMP tokens of ${embeddings.hiddenSize}`,
    );
  }
  checkFinite(embeddings.data, COMP_TENSOR, folder);
  const { summaryGain, hiddenSize } = embeddings;
  if (summaryGain === undefined) return;
  if (summaryGain.length !== hiddenSize) {
    throw invalidAdapter(folder, `has a ${GAIN_TENSOR} of ${summaryGain.length} values, not ${hiddenSize}`);
  }
  checkFinite(summaryGain, GAIN_TENSOR, folder);
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
