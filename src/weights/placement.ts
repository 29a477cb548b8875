/** @file Where the engine finds weights: one folder, no links. */
import { realpathSync } from "node:fs";
import { dirname } from "node:path";
import { PrecisError } from "../errors.js";
import type { TensorEntry } from "./safetensors.js";

/** Resolves links, since ONNX Runtime refuses weights that a link leads out of their folder to. */
export function placeTensors(tensors: ReadonlyMap<string, TensorEntry>): {
  folder: string;
  tensors: Map<string, TensorEntry>;
} {
  const real = new Map<string, string>();
  const placed = new Map<string, TensorEntry>();
  for (const [name, entry] of tensors) {
    if (!real.has(entry.file)) real.set(entry.file, realpathSync(entry.file));
    placed.set(name, { ...entry, file: real.get(entry.file) as string });
  }
  const folders = new Set([...real.values()].map((file) => dirname(file)));
  if (folders.size === 1) return { folder: [...folders][0] as string, tensors: placed };
  throw new PrecisError("WEIGHTS_INVALID", `The weight files lie in ${folders.size} folders.`, {
    value: [...folders],
    nextStep: "Put all shards of the checkpoint into one folder.",
  });
}
