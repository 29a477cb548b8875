/** @file A model folder in the Hugging Face layout: configuration, weight files, identity and health. */
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { PrecisError } from "../errors.js";
import { BYTES_PER_ELEMENT, type DType } from "../tensor/dtype.js";
import { canonicalJson, isRecord, readJsonObject, throwIfAborted } from "./files.js";
import { readSafetensorsHeader, readTensorBytes, type TensorEntry } from "./safetensors.js";

/** An opened model folder. Weights stay on disk until they are read. */
export interface Checkpoint {
  /** Absolute path of the folder. */
  directory: string;
  /** Parsed `config.json`. */
  config: Record<string, unknown>;
  /** Parsed `generation_config.json`, `{}` if there is none. */
  generationConfig: Record<string, unknown>;
  tensors: ReadonlyMap<string, TensorEntry>;
  /** Absolute paths of the weight files, sorted. */
  files: readonly string[];
}

const SINGLE_FILE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";
/** Weight files of adapters, which may lie in a model folder without being its weights. */
const ADAPTER_FILES: ReadonlySet<string> = new Set(["adapter_model.safetensors", "comp_embeddings.safetensors"]);
const PULL = "Download the model with `precis pull`, or give the folder that holds it.";

/**
 * Opens the model in `directory`: `config.json` with `model.safetensors`, with shards named by
 * `model.safetensors.index.json`, or with one `.safetensors` file of any name.
 * @throws FILE_NOT_FOUND if the folder or a file in it is missing; FILE_INVALID if JSON is malformed; WEIGHTS_INVALID
 * if a weight file is damaged or lacks a tensor that the index places there
 */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  const folder = resolve(directory);
  const names = await listFolder(folder);
  const [config, generationConfig, tensors] = await Promise.all([
    readJsonObject(join(folder, "config.json"), PULL),
    names.includes("generation_config.json") ? readJsonObject(join(folder, "generation_config.json"), PULL) : {},
    openWeights(folder, names),
  ]);
  const files = [...new Set([...tensors.values()].map((entry) => entry.file))].sort();
  return { directory: folder, config, generationConfig, tensors, files };
}

async function listFolder(folder: string): Promise<string[]> {
  const stats = await stat(folder).catch(() => undefined);
  if (stats?.isDirectory() === true) return readdir(folder);
  const problem = stats === undefined ? `There is no model folder ${folder}.` : `${folder} is not a folder.`;
  throw new PrecisError("FILE_NOT_FOUND", problem, { nextStep: PULL, value: folder });
}

async function openWeights(folder: string, names: readonly string[]): Promise<ReadonlyMap<string, TensorEntry>> {
  if (names.includes(SINGLE_FILE)) return (await readSafetensorsHeader(join(folder, SINGLE_FILE))).tensors;
  if (names.includes(INDEX_FILE)) return openShards(folder, names);
  const candidates = names.filter((name) => name.endsWith(".safetensors") && !ADAPTER_FILES.has(name)).sort();
  const [only] = candidates;
  if (only !== undefined && candidates.length === 1) return (await readSafetensorsHeader(join(folder, only))).tensors;
  if (candidates.length > 1) {
    const message = `${folder} has ${candidates.length} .safetensors files (${candidates.slice(0, 3).join(", ")}, …).`;
    const nextStep = `Add ${INDEX_FILE}, or keep one file and name it ${SINGLE_FILE}.`;
    throw new PrecisError("FILE_NOT_FOUND", message, { nextStep });
  }
  const foreign = names.find((name) => /\.(bin|pt|pth|gguf|onnx)$/.test(name));
  const found = foreign === undefined ? "" : ` (it has ${foreign}, a format that is not read)`;
  const message = `${folder} has no .safetensors weights${found}.`;
  throw new PrecisError("FILE_NOT_FOUND", message, { nextStep: PULL, value: folder });
}

async function openShards(folder: string, names: readonly string[]): Promise<Map<string, TensorEntry>> {
  const indexFile = join(folder, INDEX_FILE);
  const places = readWeightMap((await readJsonObject(indexFile, PULL)).weight_map, indexFile);
  const shardNames = [...new Set(places.values())].sort();
  const missing = shardNames.filter((name) => !names.includes(name));
  if (missing.length > 0) {
    const message = `${folder} lacks ${missing.length} of ${shardNames.length} weight files: ${missing.join(", ")}.`;
    throw new PrecisError("FILE_NOT_FOUND", message, { nextStep: PULL, value: missing });
  }
  const headers = await Promise.all(shardNames.map((name) => readSafetensorsHeader(join(folder, name))));
  const shards = new Map(shardNames.map((name, index) => [name, headers[index]?.tensors]));
  const tensors = new Map<string, TensorEntry>();
  for (const [tensor, shard] of places) {
    const entry = shards.get(shard)?.get(tensor);
    if (entry === undefined) {
      const message = `${indexFile} places tensor "${tensor}" in ${shard}, which does not hold it.`;
      throw new PrecisError("WEIGHTS_INVALID", message, { nextStep: "Download the model again.", value: tensor });
    }
    tensors.set(tensor, entry);
  }
  return tensors;
}

function readWeightMap(weightMap: unknown, indexFile: string): Map<string, string> {
  if (!isRecord(weightMap)) {
    const nextStep = "Download it again.";
    throw new PrecisError("FILE_INVALID", `${indexFile} has no "weight_map" object.`, { nextStep });
  }
  const places = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(weightMap)) {
    // A shard lies in the folder itself: an index must not lead out of it.
    if (typeof shard !== "string" || /[/\\]/.test(shard)) {
      const message = `${indexFile} places tensor "${tensor}" in ${JSON.stringify(shard)}, not a file name.`;
      throw new PrecisError("FILE_INVALID", message, { value: shard });
    }
    places.set(tensor, shard);
  }
  return places;
}

/** Config fields that differ between copies of one model. */
const VOLATILE_FIELDS: ReadonlySet<string> = new Set([
  "transformers_version",
  "torch_dtype",
  "dtype",
  "_name_or_path",
  "use_cache",
]);
const SAMPLE_BYTES = 4096;
/** Tensors sampled at a time; disks answer several reads faster than one after another. */
const SAMPLED_AT_ONCE = 16;

/**
 * The identity of a model as a sha256 in hex: the configuration without volatile fields; the name, type and shape of
 * every tensor; and up to 4 KiB at the start, middle and end of each. Folder, sharding and tensor order do not matter.
 */
export async function fingerprintCheckpoint(checkpoint: Pick<Checkpoint, "config" | "tensors">): Promise<string> {
  const hash = createHash("sha256").update(canonicalJson(checkpoint.config, VOLATILE_FIELDS));
  const tensors = sortByName(checkpoint.tensors.values());
  for (let first = 0; first < tensors.length; first += SAMPLED_AT_ONCE) {
    const group = tensors.slice(first, first + SAMPLED_AT_ONCE);
    const samples = await Promise.all(group.map(sampleTensor));
    group.forEach(({ name, dtype, shape }, index) => {
      hash.update(`\n${JSON.stringify([name, dtype, shape])}\n`);
      for (const sample of samples[index] as Uint8Array[]) hash.update(sample);
    });
  }
  return hash.digest("hex");
}

function sortByName(tensors: Iterable<TensorEntry>): TensorEntry[] {
  return [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function sampleTensor(entry: TensorEntry): Promise<Uint8Array[]> {
  const { length } = entry;
  if (length <= 3 * SAMPLE_BYTES) return [await readTensorBytes(entry)];
  const starts = [0, Math.floor((length - SAMPLE_BYTES) / 2), length - SAMPLE_BYTES];
  return Promise.all(starts.map((start) => readTensorBytes(entry, { start, end: start + SAMPLE_BYTES })));
}

const SCAN_BYTES = 2 ** 23;

/**
 * The first NaN or infinity in the weights, in order of tensor names: its tensor and the index of the element.
 * Reads every weight, 8 MiB at a time.
 * @throws ABORTED if `signal` fires
 */
export async function findNonFiniteTensor(
  checkpoint: Pick<Checkpoint, "tensors">,
  signal?: AbortSignal,
): Promise<{ name: string; index: number } | undefined> {
  for (const entry of sortByName(checkpoint.tensors.values())) {
    const size = BYTES_PER_ELEMENT[entry.dtype];
    for (let start = 0; start < entry.length; start += SCAN_BYTES) {
      throwIfAborted(signal, "Checking the weights");
      const end = Math.min(start + SCAN_BYTES, entry.length);
      const index = firstNonFinite(await readTensorBytes(entry, { start, end }), entry.dtype);
      if (index >= 0) return { name: entry.name, index: start / size + index };
    }
  }
  return undefined;
}

/** Exponent bits of each float type: all of them are set in infinities and NaN only. */
const EXPONENT_BITS: Readonly<Partial<Record<DType, number>>> = {
  float32: 0x7f800000,
  float16: 0x7c00,
  bfloat16: 0x7f80,
};

/** The index of the first element that is not finite, or -1; integers always are. `bytes` must be aligned. */
function firstNonFinite(bytes: Uint8Array, dtype: DType): number {
  const exponent = EXPONENT_BITS[dtype];
  if (exponent === undefined) return -1;
  const Bits = dtype === "float32" ? Uint32Array : Uint16Array;
  const bits = new Bits(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / Bits.BYTES_PER_ELEMENT);
  for (let i = 0; i < bits.length; i++) if (((bits[i] as number) & exponent) === exponent) return i;
  return -1;
}
