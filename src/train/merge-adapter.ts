/**
 * @file Adds an ordinary LoRA to the weights of its model: W + (alpha / rank) · B A. The result is a model of its own, which
 * a compression adapter can then be trained on: the first stage of CCM's recipe (arXiv 2312.03414, appendix B).
 */
import { copyFile, mkdir, readdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { PrecisError } from "../errors.js";
import type { DecoderConfig } from "../models/config.js";
import { projectionSize } from "../models/projections.js";
import { readDecoderConfig } from "../models/registry.js";
import { fromFloat32, isFloat } from "../tensor/dtype.js";
import { loadAdapter, type Adapter } from "../weights/adapter.js";
import { fingerprintCheckpoint, openCheckpoint, type Checkpoint } from "../weights/checkpoint.js";
import { throwIfAborted, writeFileAtomic } from "../weights/files.js";
import type { LoraPair } from "../weights/lora-pairs.js";
import {
  readSafetensorsHeader,
  readTensor,
  readTensorBytes,
  SafetensorsWriter,
  type TensorEntry,
} from "../weights/safetensors.js";

/** What to merge, and where to. */
export interface MergeOptions {
  /** Folder of the model. */
  model: string;
  /** Folder of an ordinary LoRA. */
  adapter: string;
  /** Folder of the new model; must not exist, or be empty. */
  output: string;
  signal?: AbortSignal;
}

/** What was written. */
export interface MergedModel {
  /** Absolute path of the new model. */
  directory: string;
  /** Its identity, which adapters trained on it record; another one than that of the model it came from. */
  fingerprint: string;
  /** Identity of the model it came from. */
  base: string;
  /** Matrices that the LoRA changed. */
  matrices: number;
  /** What the user should know, as sentences. */
  warnings: readonly string[];
}

/** An update of some rows of a stored matrix. */
interface Update {
  pair: LoraPair;
  /** First row; not 0 where several projections are stored as one matrix. */
  row: number;
}

/**
 * Writes the model with the LoRA added to its weights: types, shards, tokenizer and settings stay as they are. Rounding to
 * half floats costs what it costs any weight of that type.
 * @throws OPTION_INVALID if the adapter compresses, or the output folder is not empty; ADAPTER_MISMATCH if the adapter does
 *   not fit the model; WEIGHTS_INVALID if a sum does not fit its type; what reading and writing throw; ABORTED
 */
export async function mergeAdapter({ model, adapter: folder, output, signal }: MergeOptions): Promise<MergedModel> {
  const checkpoint = await openCheckpoint(model);
  const config = readDecoderConfig(checkpoint.config);
  const base = await fingerprintCheckpoint(checkpoint);
  const adapter = await loadAdapter(folder, { fingerprint: base, hiddenSize: config.hiddenSize });
  refuseCompression(adapter);
  const updates = placeUpdates(adapter, config, checkpoint);
  const directory = resolve(output);
  await prepareFolder(directory);
  for (const file of checkpoint.files) await writeShard(file, join(directory, basename(file)), updates, signal);
  await copyOthers(checkpoint, directory);
  const history = Array.isArray(checkpoint.config["precis_merged"]) ? checkpoint.config["precis_merged"] : [];
  // Last: a folder without it is no model. The note also sets the fingerprint apart, whatever the LoRA changes.
  const settings = { ...checkpoint.config, precis_merged: [...history, { base, adapter: adapter.fingerprint }] };
  await writeFileAtomic(join(directory, "config.json"), `${JSON.stringify(settings, undefined, 2)}\n`);
  const fingerprint = await fingerprintCheckpoint(await openCheckpoint(directory));
  return { directory, fingerprint, base, matrices: adapter.lora.size, warnings: adapter.warnings };
}

/** A gated LoRA acts at COMP tokens only; in the weights it would act on all text. */
function refuseCompression({ config: { precis, gated }, compEmbeddings, directory }: Adapter): void {
  if (precis === undefined && !gated && compEmbeddings === undefined) return;
  const kind = precis === undefined ? "a compression adapter" : `an adapter for ${precis.method}`;
  throw new PrecisError("OPTION_INVALID", `${directory} holds ${kind}, which cannot become part of the weights.`, {
    value: directory,
    nextStep: "Merge an ordinary LoRA (precis train --method lora), or use this one with --adapter.",
  });
}

/** The updates by the tensor that they change. */
function placeUpdates(adapter: Adapter, config: DecoderConfig, { tensors }: Checkpoint): Map<string, Update[]> {
  const updates = new Map<string, Update[]>();
  for (const [module, pair] of adapter.lora) {
    const { name, row, rows } = findMatrix(module, config, tensors, adapter.directory);
    const [stored = 0, columns] = tensors.get(name)?.shape ?? [];
    if (pair.outFeatures !== rows || pair.inFeatures !== columns || row + rows > stored) {
      const message = `The adapter changes "${module}" as [${pair.outFeatures}, ${pair.inFeatures}], but the model has it as [${rows}, ${columns}].`;
      throw new PrecisError("ADAPTER_MISMATCH", message, { nextStep: "Merge it into the model it was trained on." });
    }
    updates.set(name, [...(updates.get(name) ?? []), { pair, row }]);
  }
  return updates;
}

/** Where the matrix of a module such as `layers.0.self_attn.q_proj` is stored: a tensor, or some rows of a stacked one. */
function findMatrix(
  module: string,
  config: DecoderConfig,
  tensors: ReadonlyMap<string, TensorEntry>,
  directory: string,
): { name: string; row: number; rows: number } {
  const [, prefix = "", target = ""] = /^(layers\.\d+)\.(.+)$/.exec(module) ?? [];
  const [, rows] = projectionSize(config, target);
  const own = `model.${module}.weight`;
  if (tensors.has(own)) return { name: own, row: 0, rows };
  for (const [stack, parts] of Object.entries(STACKS)) {
    const name = `model.${prefix}.${stack}.weight`;
    if (!parts.includes(target) || !tensors.has(name)) continue;
    const before = parts.slice(0, parts.indexOf(target)).map((part) => projectionSize(config, part)[1]);
    return { name, row: before.reduce((sum, size) => sum + size, 0), rows };
  }
  throw new PrecisError("ADAPTER_MISMATCH", `The model has no matrix for "${module}" of the adapter in ${directory}.`, {
    value: module,
    nextStep: "Merge it into the model it was trained on.",
  });
}

/** Projections that some checkpoints store as one matrix, in the order of its rows. */
const STACKS: Readonly<Record<string, readonly string[]>> = {
  "self_attn.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
  "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
};

async function prepareFolder(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true }).catch((error: unknown) => {
    throw PrecisError.from(error, "FILE_INVALID", `Cannot make the folder ${directory}`);
  });
  const [first] = await readdir(directory);
  if (first === undefined) return;
  throw new PrecisError("OPTION_INVALID", `The output folder ${directory} is not empty; it has ${first}.`, {
    value: directory,
    nextStep: "Name a new folder.",
  });
}

/** Bytes of unchanged weights that are copied at a time. */
const COPY_BYTES = 2 ** 26;

/** Writes a weight file with the same tensors, changed where there are updates. */
async function writeShard(
  from: string,
  to: string,
  updates: ReadonlyMap<string, readonly Update[]>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { tensors, metadata } = await readSafetensorsHeader(from);
  await using writer = await SafetensorsWriter.create(to, [...tensors.values()], metadata);
  for (const [name, entry] of tensors) {
    throwIfAborted(signal, "Merging");
    const own = updates.get(name);
    if (own !== undefined) await writer.write(name, await changedTensor(entry, own));
    else {
      for (let start = 0; start < entry.length; start += COPY_BYTES) {
        const range = { start, end: Math.min(start + COPY_BYTES, entry.length) };
        await writer.write(name, await readTensorBytes(entry, range));
      }
    }
  }
  await writer.finish();
}

async function changedTensor(entry: TensorEntry, updates: readonly Update[]): Promise<Uint8Array> {
  const { name, dtype } = entry;
  if (!isFloat(dtype))
    throw new PrecisError("WEIGHTS_INVALID", `"${name}" is stored as ${dtype}; nothing can be added.`);
  const values = Float32Array.from(await readTensor(entry));
  for (const { pair, row } of updates) addProduct(values, pair, row);
  // The largest half float; bfloat16 and float32 overflow alike.
  const limit = dtype === "float16" ? 65504 : 3.38e38;
  const index = values.findIndex((value) => !(Math.abs(value) <= limit));
  if (index < 0) return fromFloat32(values, dtype);
  throw new PrecisError("WEIGHTS_INVALID", `Element ${index} of "${name}" would be ${values[index]} as ${dtype}.`, {
    value: name,
    nextStep: "Train the LoRA with a lower learning rate, or merge it into a float32 copy of the model.",
  });
}

/** Adds B · A to the rows from `first` on; sums are made in double precision and rounded once. */
function addProduct(matrix: Float32Array, { a, b, rank, inFeatures, outFeatures }: LoraPair, first: number): void {
  const sum = new Float64Array(inFeatures);
  for (let row = 0; row < outFeatures; row++) {
    const target = matrix.subarray((first + row) * inFeatures, (first + row + 1) * inFeatures);
    sum.set(target);
    for (let k = 0; k < rank; k++) {
      const factor = b[row * rank + k] as number;
      const from = k * inFeatures;
      for (let i = 0; i < inFeatures; i++) sum[i] = (sum[i] as number) + factor * (a[from + i] as number);
    }
    target.set(sum);
  }
}

/** Files that describe or hold weights of the old model. */
const LEFT_BEHIND: RegExp = /\.(safetensors|bin|pt|pth|gguf|onnx)$|^config\.json$|^README\.md$/i;

/** Copies tokenizer, template, generation settings, licence and the index of shards. */
async function copyOthers({ directory }: Checkpoint, output: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    // Hub caches keep files behind links; folders hold adapters and other formats.
    if (entry.isDirectory() || LEFT_BEHIND.test(entry.name)) continue;
    await copyFile(join(directory, entry.name), join(output, entry.name));
  }
}
