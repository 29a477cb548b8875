/** @file Makes the benchmark's model files once and reuses them afterwards. */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeAdapter } from "./adapter.js";
import { writeCheckpoint } from "./checkpoint.js";
import { writeLlamaGguf, type GgufQuantization } from "./llama-gguf.js";
import { SMOLLM2_135M, type DecoderShape } from "./shape.js";

/** Grows with every change of the written files, so that older ones are not reused. */
const VERSION = 1;

/** The shape's folder in bench/.cache, seen from the compiled file. */
function cacheOf({ name }: DecoderShape): string {
  return fileURLToPath(new URL(`../../.cache/${name}-v${VERSION}`, import.meta.url));
}

/** Writes to a temporary name first, so that an interrupted run leaves nothing that looks finished. */
function once(shape: DecoderShape, name: string, write: (path: string) => void): string {
  const cache = cacheOf(shape);
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
export function prepareCheckpoint(shape: DecoderShape = SMOLLM2_135M): string {
  return once(shape, "checkpoint", (path) => writeCheckpoint(path, shape));
}

/** Path of the GGUF file with the same weights in the given format. */
export function prepareGguf(quantization: GgufQuantization, shape: DecoderShape = SMOLLM2_135M): string {
  return once(shape, `model-${quantization}.gguf`, (path) => writeLlamaGguf(path, shape, quantization));
}

/** Folder of a random compression adapter for that checkpoint. */
export function prepareAdapter(shape: DecoderShape = SMOLLM2_135M): string {
  return once(shape, "adapter", (path) => writeAdapter(path, shape));
}

/** Folder of a random adapter for sentinel tokens. */
export function prepareSentinelAdapter(): string {
  return once(SMOLLM2_135M, "sentinel-adapter", (path) => writeAdapter(path, SMOLLM2_135M, "sentinel"));
}

/** Where engines keep what they derive from the checkpoint. */
export function engineCache(shape: DecoderShape = SMOLLM2_135M): string {
  return join(cacheOf(shape), "derived");
}
