/** @file Temporary folders and small model folders for the tests of the weights. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { encodeSafetensors, type TensorData } from "#precis/weights/safetensors.js";

/** A fresh folder that is removed when it leaves the scope of `await using`. */
export async function temporaryFolder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), "precis-weights-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** Writes files under `folder`: objects as JSON, strings and bytes as they are. */
export async function writeFiles(
  folder: string,
  files: Record<string, Record<string, unknown> | string | Uint8Array>,
): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    const file = join(folder, name);
    await mkdir(dirname(file), { recursive: true });
    const isRaw = typeof content === "string" || content instanceof Uint8Array;
    await writeFile(file, isRaw ? content : JSON.stringify(content));
  }
}

/** A float32 tensor. */
export function floats(shape: readonly number[], values: readonly number[] | Float32Array): TensorData {
  return { dtype: "float32", shape, data: Float32Array.from(values) };
}

/** Repeatable values between -1 and 1 that look normal enough for quantisation. */
export function noise(count: number, seed = 1): Float32Array {
  let state = seed;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  return Float32Array.from({ length: count }, () => (next() + next() + next() + next()) / 2);
}

/** A file with `header` as its JSON header and `dataBytes` zero bytes after it, however wrong. */
export function rawSafetensors(header: unknown, dataBytes: number): Uint8Array {
  const text = typeof header === "string" ? header : JSON.stringify(header);
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(new TextEncoder().encode(text), 8);
  return bytes;
}

/** Writes a model folder with `tensors` in model.safetensors and a small config.json. */
export async function writeModel(
  folder: string,
  tensors: Record<string, TensorData>,
  config: Record<string, unknown> = { model_type: "llama", hidden_size: 4 },
): Promise<void> {
  await writeFiles(folder, { "config.json": config, "model.safetensors": encodeSafetensors(tensors) });
}
