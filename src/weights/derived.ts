/** @file Weight files made from a checkpoint once and cached: streamed, written atomically, reused while valid. */
import { resolve } from "node:path";
import { PrecisError } from "../errors.js";
import type { Checkpoint } from "./checkpoint.js";
import { cacheDirectory, throwIfAborted } from "./files.js";
import {
  readSafetensorsHeader,
  readTensorBytes,
  SafetensorsWriter,
  type TensorEntry,
  type TensorSpec,
} from "./safetensors.js";

/** Progress of a derivation. */
export interface DeriveEvent {
  /** The tensor being read. */
  tensor: string;
  /** Bytes of the checkpoint done so far, this tensor included as far as it is. */
  done: number;
  /** Bytes of the checkpoint to do. */
  total: number;
}

/** Options of everything that derives a weight file. */
export interface DeriveOptions {
  /** Root of the cache; `$PRECIS_CACHE`, `$XDG_CACHE_HOME/precis` or `~/.cache/precis` by default. */
  cacheDir?: string;
  /** Stops the work with ABORTED; no partial file stays. */
  signal?: AbortSignal;
  onProgress?: (event: DeriveEvent) => void;
}

/** Streams one source tensor into the derived file. */
export interface DeriveStep {
  source: TensorEntry;
  /** Bytes handed over at a time: whole rows, so that blocks stay together. */
  chunkBytes: number;
  /** What to append, and to which derived tensors, for the next bytes of the source. */
  convert(bytes: Uint8Array): Iterable<readonly [name: string, data: ArrayBufferView]>;
}

/** A derived file to be. */
export interface Derivation {
  /** Name in the cache's `quantized` folder. */
  fileName: string;
  /** Everything that the content depends on; a cached file is reused only if it records the same. */
  metadata: Record<string, string>;
  outputs: readonly TensorSpec[];
  steps: readonly DeriveStep[];
}

/**
 * The derived file, from the cache if a valid one is there. Several processes may derive at once: each writes its own
 * temporary file, and whole files replace one another.
 * @throws ABORTED if the signal fires
 */
export async function derive(
  derivation: Derivation,
  options: DeriveOptions,
): Promise<{ file: string; tensors: Map<string, TensorEntry> }> {
  const { fileName, metadata, outputs, steps } = derivation;
  const { cacheDir = cacheDirectory(), signal, onProgress } = options;
  throwIfAborted(signal, "Converting the weights");
  const file = resolve(cacheDir, "quantized", fileName);
  const cached = await readValid(file, metadata);
  if (cached !== undefined) return { file, tensors: cached };

  const total = steps.reduce((sum, step) => sum + step.source.length, 0);
  let done = 0;
  await using writer = await SafetensorsWriter.create(file, outputs, metadata);
  for (const { source, chunkBytes, convert } of steps) {
    for (let start = 0; start < source.length; start += chunkBytes) {
      throwIfAborted(signal, "Converting the weights");
      const end = Math.min(start + chunkBytes, source.length);
      for (const [name, data] of convert(await readTensorBytes(source, { start, end }))) await writer.write(name, data);
      done += end - start;
      onProgress?.({ tensor: source.name, done, total });
    }
  }
  throwIfAborted(signal, "Converting the weights");
  return { file, tensors: await writer.finish() };
}

/** The tensors of a cached file, or undefined if it is missing, damaged or about something else. */
async function readValid(
  file: string,
  metadata: Record<string, string>,
): Promise<Map<string, TensorEntry> | undefined> {
  try {
    const found = await readSafetensorsHeader(file);
    const matches = Object.entries(metadata).every(([key, value]) => found.metadata[key] === value);
    return matches ? found.tensors : undefined;
  } catch (error) {
    if (error instanceof PrecisError && ["FILE_NOT_FOUND", "WEIGHTS_INVALID"].includes(error.code)) return undefined;
    throw error;
  }
}

/** The tensor `name` of a checkpoint, or WEIGHTS_INVALID. */
export function requireTensor(checkpoint: Pick<Checkpoint, "directory" | "tensors">, name: string): TensorEntry {
  const entry = checkpoint.tensors.get(name);
  if (entry !== undefined) return entry;
  const message = `The weights in ${checkpoint.directory} lack the tensor "${name}".`;
  throw new PrecisError("WEIGHTS_INVALID", message, { nextStep: "Download the model again.", value: name });
}
