/** @file The LoRA matrices of an adapter: their tensors' names in the PEFT layout, reading, checking and writing them. */
import { join } from "node:path";
import { fromFloat32, type FloatDType } from "../tensor/dtype.js";
import { rankOf, scaleOf, type AdapterConfig } from "./adapter-config.js";
import { invalidAdapter, refuseNonFinite, wrongHiddenSize } from "./adapter-errors.js";
import {
  readSafetensorsHeader,
  readTensor,
  writeSafetensors,
  type TensorData,
  type TensorEntry,
} from "./safetensors.js";

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

const WEIGHTS_FILE = "adapter_model.safetensors";
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
 * The pairs as stored, not scaled.
 * @throws FILE_NOT_FOUND; ADAPTER_INVALID for tensors that are not the pairs of a supported LoRA
 */
export async function readPairs(folder: string): Promise<Map<string, LoraPair>> {
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

/** The pairs with the factor of their updates in `b`. */
export function scalePairs(config: AdapterConfig, stored: ReadonlyMap<string, LoraPair>): Map<string, LoraPair> {
  return new Map([...stored].map(([module, pair]) => [module, scaleB(pair, scaleOf(config, module))]));
}

/**
 * The tensors of scaled pairs, as {@link readPairs} reads them; nothing is written yet.
 * @throws ADAPTER_INVALID for pairs that contradict the configuration or hold NaN
 */
export function pairTensors(
  config: AdapterConfig,
  lora: ReadonlyMap<string, LoraPair>,
  dtype: FloatDType,
  folder: string,
): Map<string, TensorData> {
  const tensors = new Map<string, TensorData>();
  for (const [module, pair] of lora) {
    const { a, b } = scaleB(pair, 1 / scaleOf(config, module));
    checkPair(config, module, { ...pair, a, b }, folder);
    const { rank, inFeatures, outFeatures } = pair;
    tensors.set(tensorName(module, "A"), tensorOf(a, [rank, inFeatures], dtype));
    tensors.set(tensorName(module, "B"), tensorOf(b, [outFeatures, rank], dtype));
  }
  return tensors;
}

/** Writes what {@link pairTensors} gives; the file is replaced whole. */
export function writePairTensors(folder: string, tensors: ReadonlyMap<string, TensorData>): Promise<void> {
  return writeSafetensors(join(folder, WEIGHTS_FILE), tensors, { format: "pt" });
}

/**
 * The modules an adapter changes: those it lists, or if it lists none, those it has weights for.
 * @throws ADAPTER_INVALID where the list and the weights differ
 */
export function checkTargets(listed: readonly string[], modules: readonly string[], folder: string): readonly string[] {
  const isTarget = (module: string, target: string): boolean => module === target || module.endsWith(`.${target}`);
  const empty = listed.find((target) => !modules.some((module) => isTarget(module, target)));
  if (empty !== undefined) throw invalidAdapter(folder, `lists the target module "${empty}" but has no weights for it`);
  if (listed.length === 0) return [...new Set(modules.map((module) => module.split(".").at(-1) as string))].sort();
  const stray = modules.find((module) => !listed.some((target) => isTarget(module, target)));
  if (stray === undefined) return listed;
  throw invalidAdapter(folder, `has weights for "${stray}", which target_modules does not list`);
}

/**
 * Checks a pair that is not scaled.
 * @param hiddenSize the model's, where there is one
 * @throws ADAPTER_INVALID for a pair that contradicts the configuration or holds NaN; ADAPTER_MISMATCH for another hidden
 *   size
 */
export function checkPair(
  config: AdapterConfig,
  module: string,
  pair: LoraPair,
  folder: string,
  hiddenSize?: number,
): void {
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
    if (side !== hiddenSize) throw wrongHiddenSize(folder, `"${module}"`, side, hiddenSize);
  }
  refuseNonFinite(a, `lora_A of "${module}"`, folder);
  refuseNonFinite(b, `lora_B of "${module}"`, folder);
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

function scaleB(pair: LoraPair, scale: number): LoraPair {
  return { ...pair, b: pair.b.map((value) => value * scale) };
}

/** Values as a tensor of a file. */
function tensorOf(values: Float32Array, shape: readonly number[], dtype: FloatDType): TensorData {
  return { dtype, shape, data: fromFloat32(values, dtype) };
}
