/** @file Several copies of one model, each in a worker of its own, for work that falls into independent parts. */
import { readdir, stat } from "node:fs/promises";
import { availableParallelism, freemem } from "node:os";
import { join } from "node:path";
import { AbortListeners } from "../abort-listeners.js";
import type { LanguageModel } from "../runtime/model.js";
import { openModel, type ModelFlags } from "./model-options.js";

/** Cores from which on copies are worth their memory without being asked for. */
const MANY_CORES = 8;

/** Bytes that a copy takes per byte of its checkpoint, at most: half floats may become single ones, and runs need room. */
const BYTES_PER_STORED_BYTE = 3;

/** The copies; disposes all of them. */
export interface ModelPool extends AsyncDisposable {
  readonly all: readonly [LanguageModel, ...LanguageModel[]];
}

/**
 * Loads the model `flags.workers` times; by default once, or on a machine of many cores once per core as far as memory
 * allows. Cores are shared out evenly unless `flags.threads` says otherwise.
 */
export async function openModels(
  directory: string,
  flags: ModelFlags & { workers?: number },
  signal: AbortSignal,
): Promise<ModelPool> {
  const count = flags.workers ?? (await defaultWorkers(directory, flags));
  const share = Math.max(1, Math.floor(availableParallelism() / count));
  const settings = { ...flags, threads: flags.threads ?? (count > 1 ? share : undefined) };
  // The first one alone, since it may write converted weights that the others then read.
  const first = await openModel(directory, settings, signal);
  const listeners = new AbortListeners();
  const open = (): Promise<LanguageModel> => listeners.withAny([signal], (own) => openModel(directory, settings, own));
  const loading = Array.from({ length: count - 1 }, open);
  const loaded = await Promise.allSettled(loading);
  const others = loaded.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const dispose = async (): Promise<void> => {
    await Promise.all([first, ...others].map((model) => model.dispose()));
  };
  const failed = loaded.find((result) => result.status === "rejected");
  if (failed !== undefined) {
    await dispose();
    throw failed.reason;
  }
  return { all: [first, ...others], [Symbol.asyncDispose]: dispose };
}

/** As many copies as cores and free memory allow, on machines of many cores. */
async function defaultWorkers(directory: string, { threads = 1, device }: ModelFlags): Promise<number> {
  const cores = availableParallelism();
  if (cores < MANY_CORES || device === "cuda" || device === "webgpu") return 1;
  const names = await readdir(directory);
  const sizes = await Promise.all(
    names.filter((name) => name.endsWith(".safetensors")).map(async (name) => (await stat(join(directory, name))).size),
  );
  const bytes = BYTES_PER_STORED_BYTE * sizes.reduce((sum, size) => sum + size, 0);
  const fitting = Math.floor(freemem() / 2 / Math.max(1, bytes));
  return Math.max(1, Math.min(Math.floor(cores / threads), fitting));
}
