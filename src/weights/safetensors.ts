/** @file Reading and writing safetensors files: headers, tensors, whole files in memory, and streams. */
import { open, type FileHandle } from "node:fs/promises";
import { resolve } from "node:path";
import { PrecisError } from "../errors.js";
import { toFloat32, type DType } from "../tensor/dtype.js";
import { isSystemError } from "./files.js";
import {
  invalidFile,
  layOut,
  parseHeader,
  parseHeaderLength,
  PREFIX_BYTES,
  type Layout,
  type TensorEntry,
} from "./safetensors-header.js";
import { SafetensorsWriter } from "./safetensors-writer.js";

export type { TensorEntry, TensorSpec } from "./safetensors-header.js";
export { SafetensorsWriter } from "./safetensors-writer.js";

/** What the header of a safetensors file says. */
export interface SafetensorsFile {
  /** Absolute path. */
  file: string;
  /** Every tensor by name, in the order of the header. */
  tensors: Map<string, TensorEntry>;
  metadata: Record<string, string>;
}

/** A tensor in memory, as its little-endian bytes or a typed array over them (`Uint16Array` for half floats). */
export interface TensorData {
  dtype: DType;
  shape: readonly number[];
  data: Uint8Array | ArrayBufferView;
}

/** Several tensors by name. */
export type TensorDataMap = ReadonlyMap<string, TensorData> | Record<string, TensorData>;

/** One read call takes at most this much: the system refuses 2 GiB and more. */
const READ_BYTES = 2 ** 30;

/**
 * Reads and checks the header of a safetensors file; tensor data stays on disk.
 * @throws FILE_NOT_FOUND if there is no such file; WEIGHTS_INVALID if it is truncated, malformed or has a tensor of
 * an unsupported type
 */
export async function readSafetensorsHeader(file: string): Promise<SafetensorsFile> {
  const path = resolve(file);
  await using handle = await openForReading(path);
  const { size } = await handle.stat();
  const prefix = await readRange(handle, 0, Math.min(size, PREFIX_BYTES), path);
  const headerBytes = parseHeaderLength(prefix, path, size);
  const header = await readRange(handle, PREFIX_BYTES, headerBytes, path);
  return { file: path, ...parseHeader(header, path, size) };
}

/**
 * The stored bytes of a tensor, or those from `range.start` up to `range.end` (in bytes of the tensor).
 * @returns a fresh array whose buffer it fills, so typed arrays can be laid over it
 * @throws INPUT_INVALID if the range leaves the tensor; FILE_NOT_FOUND or WEIGHTS_INVALID if the file changed
 */
export async function readTensorBytes(
  entry: TensorEntry,
  range: { start: number; end: number } = { start: 0, end: entry.length },
): Promise<Uint8Array> {
  const { start, end } = range;
  if (!(start >= 0 && start <= end && end <= entry.length)) {
    const message = `Bytes ${start} to ${end} lie outside tensor "${entry.name}", which has ${entry.length} bytes.`;
    throw new PrecisError("INPUT_INVALID", message, { value: range });
  }
  await using handle = await openForReading(entry.file);
  return await readRange(handle, entry.offset + start, end - start, entry.file);
}

/** All values of a tensor as float32. Fails as {@link readTensorBytes} does. */
export async function readTensor(entry: TensorEntry): Promise<Float32Array> {
  return toFloat32(await readTensorBytes(entry), entry.dtype);
}

/** Opens a weights file, or throws FILE_NOT_FOUND. */
async function openForReading(file: string): Promise<FileHandle> {
  try {
    return await open(file, "r");
  } catch (error) {
    if (!isSystemError(error, "ENOENT", "ENOTDIR")) {
      throw PrecisError.from(error, "FILE_INVALID", `Cannot open ${file}`, "Check its permissions.");
    }
    const nextStep = "Check the path, or download the model with `precis pull`.";
    throw new PrecisError("FILE_NOT_FOUND", `There is no weights file ${file}.`, { nextStep, value: file });
  }
}

async function readRange(handle: FileHandle, start: number, length: number, file: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const wanted = Math.min(READ_BYTES, length - done);
    const { bytesRead } = await handle.read(bytes, done, wanted, start + done).catch((error: unknown) => {
      throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`);
    });
    if (bytesRead === 0) {
      throw invalidFile(file, `is truncated: expected ${start + length} bytes or more, found ${start + done}`);
    }
    done += bytesRead;
  }
  return bytes;
}

function entriesOf(tensors: TensorDataMap): [string, TensorData][] {
  return tensors instanceof Map ? [...tensors] : Object.entries(tensors as Record<string, TensorData>);
}

function layOutData(tensors: TensorDataMap, metadata: Record<string, string>, file: string): Layout {
  const specs = entriesOf(tensors).map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
  return layOut(specs, metadata, file);
}

/** The bytes of a tensor in memory, after checking that they fit its shape. */
function bytesOf(name: string, tensor: TensorData, expected: number): Uint8Array {
  const { buffer, byteOffset, byteLength } = tensor.data;
  if (byteLength !== expected) {
    const described = `${tensor.dtype} [${tensor.shape.join(", ")}]`;
    throw new PrecisError("INPUT_INVALID", `Tensor "${name}" has ${byteLength} bytes; ${described} needs ${expected}.`);
  }
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}

/**
 * A whole safetensors file in memory. The header is padded with spaces so that the data is 64-byte aligned.
 * @throws INPUT_INVALID if data does not fit its shape
 */
export function encodeSafetensors(tensors: TensorDataMap, metadata: Record<string, string> = {}): Uint8Array {
  const layout = layOutData(tensors, metadata, "");
  const byName = new Map(entriesOf(tensors));
  const file = new Uint8Array(layout.fileBytes);
  file.set(layout.head);
  for (const { name, offset, length } of layout.entries) {
    file.set(bytesOf(name, byName.get(name) as TensorData, length), offset);
  }
  return file;
}

/**
 * The tensors of a safetensors file in memory. Their data are views of `bytes`, not copies.
 * @throws WEIGHTS_INVALID if the bytes are truncated or malformed
 */
export function decodeSafetensors(bytes: Uint8Array): Map<string, TensorData> {
  const source = "The safetensors data";
  const headerBytes = parseHeaderLength(bytes.subarray(0, PREFIX_BYTES), source, bytes.byteLength);
  const header = bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + headerBytes);
  const { tensors } = parseHeader(header, source, bytes.byteLength);
  return new Map(
    [...tensors.values()].map(({ name, dtype, shape, offset, length }) => [
      name,
      // Not a subarray: that of a Buffer is a Buffer, whose slice() does not copy.
      { dtype, shape, data: new Uint8Array(bytes.buffer, bytes.byteOffset + offset, length) },
    ]),
  );
}

/**
 * Writes a safetensors file atomically: readers see the old file or the new one, never a part.
 * @throws INPUT_INVALID if data does not fit its shape; FILE_INVALID if the file cannot be written
 */
export async function writeSafetensors(
  file: string,
  tensors: TensorDataMap,
  metadata: Record<string, string> = {},
): Promise<void> {
  const entries = entriesOf(tensors);
  const specs = entries.map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
  await using writer = await SafetensorsWriter.create(file, specs, metadata);
  for (const [name, tensor] of entries) {
    await writer.write(name, bytesOf(name, tensor, writer.entry(name).length));
  }
  await writer.finish();
}
