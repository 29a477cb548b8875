/** @file Makes the benchmark's model files once and reuses them afterwards. */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeAdapter } from "./adapter.js";
import { writeCheckpoint } from "./checkpoint.js";
import { writeLlamaGguf, type GgufQuantization } from "./llama-gguf.js";
import { SMOLLM2_135M } from "./shape.js";

/** Grows with every change of the written files, so that older ones are not reused. */
const VERSION = 1;

/** bench/.cache, seen from the compiled file. */
const cache = fileURLToPath(new URL(`../../.cache/smollm2-135m-v${VERSION}`, import.meta.url));

/** Writes to a temporary name first, so that an interrupted run leaves nothing that looks finished. */
function once(name: string, write: (path: string) => void): string {
  const path = join(cache, name);
  if (existsSync(path)) return path;
  mkdirSync(cache, { recursive: true });
  const unfinished = `${path}.partial`;
  rmSync(unfinished, { recursive: true, force: true });
  process.stderr.write(`Writing ${name} …\n`);
  write(unfinished);
  renameSync(unfinished, path);
  return path;
}

/** Folder of the half-float checkpoint. */
export function prepareCheckpoint(): string {
  return once("checkpoint", (path) => writeCheckpoint(path, SMOLLM2_135M));
}

/** Path of the GGUF file with the same weights in the given format. */
export function prepareGguf(quantization: GgufQuantization): string {
  return once(`model-${quantization}.gguf`, (path) => writeLlamaGguf(path, SMOLLM2_135M, quantization));
}

/** Folder of a random compression adapter for that checkpoint. */
export function prepareAdapter(): string {
  return once("adapter", (path) => writeAdapter(path, SMOLLM2_135M));
}

/** Folder of a random adapter for sentinel tokens. */
export function prepareSentinelAdapter(): string {
  return once("sentinel-adapter", (path) => writeAdapter(path, SMOLLM2_135M, "sentinel"));
}

/** Where engines keep what they derive from the checkpoint. */
export function engineCache(): string {
  return join(cache, "derived");
}
