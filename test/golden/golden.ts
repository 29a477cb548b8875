/**
 * @file Where the golden files lie, and a reader for them. It shares no code with `src` on purpose: a defect in the
 * library's own safetensors reader must not hide behind the tensors that are to expose it.
 */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** One tensor of a golden file. Integers and masks keep their own element type. */
export interface GoldenTensor {
  dtype: "F32" | "I32" | "U8";
  shape: number[];
  data: Float32Array | Int32Array | Uint8Array;
}

const ROOT = process.env["PRECIS_GOLDEN"] ?? fileURLToPath(new URL("../../../shared/golden", import.meta.url));
let announced = false;

/**
 * The folder of golden files called `name` ("ccm", "hf/llama", …), or undefined where they are not at hand; this is
 * then printed once per process. Use it as `describe.skipIf(dir === undefined)`.
 *
 * The files lie in `$PRECIS_GOLDEN`, by default `shared/golden` beside the repository.
 */
export function goldenDirectory(name: string): string | undefined {
  const directory = join(ROOT, name);
  if (existsSync(directory)) return directory;
  if (!announced) console.warn(`Golden files are not at hand: no ${directory}. Set PRECIS_GOLDEN to their folder.`);
  announced = true;
  return undefined;
}

const ARRAYS = { F32: Float32Array, I32: Int32Array, U8: Uint8Array };

/** Every tensor of a safetensors file of float32, int32 and uint8 tensors. Throws on any other element type. */
export function readGolden(file: string): Map<string, GoldenTensor> {
  const bytes = readFileSync(file);
  const headerEnd = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, headerEnd)) as Record<
    string,
    { dtype: GoldenTensor["dtype"]; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, GoldenTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const ArrayType = ARRAYS[entry.dtype];
    if (ArrayType === undefined) throw new Error(`${file}: ${name} has element type ${entry.dtype}`);
    const [start, end] = entry.data_offsets;
    // A copy at offset 0 of its own buffer is aligned whatever the file's offset was.
    const copy = new Uint8Array(bytes.subarray(headerEnd + start, headerEnd + end));
    tensors.set(name, { dtype: entry.dtype, shape: entry.shape, data: new ArrayType(copy.buffer) });
  }
  return tensors;
}

/** The tensor `name` as float32 data. Throws when it is absent or of another element type. */
export function goldenFloats(tensors: Map<string, GoldenTensor>, name: string): Float32Array {
  const data = tensors.get(name)?.data;
  if (!(data instanceof Float32Array)) throw new Error(`No float32 tensor ${name}`);
  return data;
}

/** The tensor `name` (int32 or uint8) as plain numbers. Throws when it is absent. */
export function goldenNumbers(tensors: Map<string, GoldenTensor>, name: string): number[] {
  const tensor = tensors.get(name);
  if (tensor === undefined) throw new Error(`No tensor ${name}`);
  return [...tensor.data];
}
