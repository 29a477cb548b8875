/** @file The header of a safetensors file: reading, checking and laying out. No file access. */
import { PrecisError } from "../errors.js";
import { BYTES_PER_ELEMENT, elementCount, type DType } from "../tensor/dtype.js";
import { isRecord } from "./files.js";

/** Where one tensor of a safetensors file lies. */
export interface TensorEntry {
  name: string;
  dtype: DType;
  shape: readonly number[];
  /** Absolute path of the file. */
  file: string;
  /** Bytes from the start of the file. */
  offset: number;
  /** Size in bytes. */
  length: number;
}

/** The name, type and shape of a tensor before it has a place. */
export type TensorSpec = Pick<TensorEntry, "name" | "dtype" | "shape">;

/** Bytes before the header: its length as a little-endian unsigned 64-bit integer. */
export const PREFIX_BYTES = 8;
/** The limit the reference implementation sets; a longer header is a damaged or foreign file. */
const MAX_HEADER_BYTES = 100_000_000;
/** Data starts on a cache line, so that memory-mapped weights are aligned. */
const DATA_ALIGNMENT = 64;
const DOWNLOAD_AGAIN = "Download it again, for example with `precis pull`.";

const DTYPE_NAMES: Readonly<Record<DType, string>> = {
  float32: "F32",
  float16: "F16",
  bfloat16: "BF16",
  int64: "I64",
  int32: "I32",
  int8: "I8",
  uint8: "U8",
  bool: "BOOL",
};
const DTYPES: ReadonlyMap<string, DType> = new Map(
  (Object.keys(DTYPE_NAMES) as DType[]).map((dtype) => [DTYPE_NAMES[dtype], dtype]),
);

/** A checked header. */
export interface ParsedHeader {
  tensors: Map<string, TensorEntry>;
  metadata: Record<string, string>;
}

/** A WEIGHTS_INVALID error about `file`, by default with the advice to download it again. */
export function invalidFile(file: string, problem: string, nextStep: string = DOWNLOAD_AGAIN): PrecisError {
  return new PrecisError("WEIGHTS_INVALID", `${file} ${problem}.`, { nextStep, value: file });
}

/**
 * The length of the header in bytes.
 * @param prefix the first {@link PREFIX_BYTES} bytes, or fewer if the file is shorter
 * @throws WEIGHTS_INVALID if it does not fit the file
 */
export function parseHeaderLength(prefix: Uint8Array, file: string, fileBytes: number): number {
  if (prefix.byteLength < PREFIX_BYTES) {
    throw invalidFile(file, `is truncated: it has ${fileBytes} bytes and a safetensors file has more than 8`);
  }
  if (Buffer.from(prefix).toString("latin1") === "version ") {
    throw invalidFile(file, "is a Git LFS pointer, not the weights themselves", "Run `git lfs pull` or `precis pull`.");
  }
  const length = Number(new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true));
  if (length < 2 || length > MAX_HEADER_BYTES) {
    throw invalidFile(file, `is not a safetensors file: its header would have ${length} bytes`);
  }
  if (PREFIX_BYTES + length > fileBytes) {
    throw invalidFile(file, `is truncated: expected ${PREFIX_BYTES + length} bytes or more, found ${fileBytes}`);
  }
  return length;
}

/**
 * Reads and checks a header.
 * @param header the header's bytes, without the length before it
 * @param fileBytes size of the whole file
 * @throws WEIGHTS_INVALID if anything in it contradicts itself or the file's size
 */
export function parseHeader(header: Uint8Array, file: string, fileBytes: number): ParsedHeader {
  const json = parseJson(header, file);
  const { __metadata__: metadata = {}, ...entries } = json;
  if (!isRecord(metadata) || !Object.values(metadata).every((value) => typeof value === "string")) {
    throw invalidFile(file, "has a __metadata__ that does not map names to strings");
  }
  const dataStart = PREFIX_BYTES + header.byteLength;
  const tensors = Object.entries(entries).map(([name, entry]) => parseEntry(name, entry, file, dataStart));
  checkLayout(tensors, file, dataStart, fileBytes);
  return {
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    metadata: metadata as Record<string, string>,
  };
}

function parseJson(header: Uint8Array, file: string): Record<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(header));
  } catch {
    throw invalidFile(file, "is not a safetensors file: its header is not JSON");
  }
  if (!isRecord(json)) throw invalidFile(file, "is not a safetensors file: its header is not a JSON object");
  return json;
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function parseEntry(name: string, entry: unknown, file: string, dataStart: number): TensorEntry {
  if (!isRecord(entry)) throw invalidFile(file, `has a malformed header: tensor "${name}" is not an object`);
  const { dtype: storedType, shape, data_offsets: offsets } = entry;
  const dtype = DTYPES.get(String(storedType));
  if (dtype === undefined) {
    const supported = [...DTYPES.keys()].join(", ");
    const problem = `stores tensor "${name}" as ${String(storedType)}, which is not supported (${supported} are)`;
    throw invalidFile(file, problem, "Use a checkpoint in BF16, F16 or F32.");
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) {
    throw invalidFile(file, `gives tensor "${name}" the shape ${JSON.stringify(shape)}`);
  }
  const [start, end] = Array.isArray(offsets) && offsets.length === 2 ? offsets : [];
  if (!isSize(start) || !isSize(end) || start > end) {
    throw invalidFile(file, `gives tensor "${name}" the offsets ${JSON.stringify(offsets)}`);
  }
  const expected = elementCount(shape) * BYTES_PER_ELEMENT[dtype];
  if (end - start !== expected) {
    const described = `${String(storedType)} [${shape.join(", ")}]`;
    throw invalidFile(file, `gives tensor "${name}" ${end - start} bytes, but ${described} needs ${expected}`);
  }
  return { name, dtype, shape, file, offset: dataStart + start, length: expected };
}

/** Tensors must fill the file from the header to the end, without gap or overlap. */
function checkLayout(tensors: readonly TensorEntry[], file: string, dataStart: number, fileBytes: number): void {
  let position = dataStart;
  for (const tensor of tensors.toSorted((a, b) => a.offset - b.offset || a.length - b.length)) {
    if (tensor.offset !== position) {
      const relation = tensor.offset < position ? "overlaps the tensor before it" : "leaves a gap before it";
      throw invalidFile(file, `has a malformed header: tensor "${tensor.name}" ${relation}`);
    }
    position += tensor.length;
  }
  if (position > fileBytes) throw invalidFile(file, `is truncated: expected ${position} bytes, found ${fileBytes}`);
  if (position < fileBytes) {
    throw invalidFile(file, `is ${fileBytes} bytes long, but its header describes ${position}`);
  }
}

/** The bytes before the data, and where each tensor goes. */
export interface Layout {
  head: Uint8Array;
  entries: TensorEntry[];
  fileBytes: number;
}

/**
 * Lays out a file. Wider element types come first, so that each tensor is aligned to its element size; the format
 * allows no gaps between tensors.
 * @throws INPUT_INVALID for a repeated or reserved name or a shape with anything but whole sizes
 */
export function layOut(specs: readonly TensorSpec[], metadata: Record<string, string>, file: string): Layout {
  const sorted = specs.toSorted((a, b) => BYTES_PER_ELEMENT[b.dtype] - BYTES_PER_ELEMENT[a.dtype]);
  const header: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  if (Object.keys(metadata).length > 0) Object.assign(header, { __metadata__: metadata });
  const entries: TensorEntry[] = [];
  let position = 0;
  for (const { name, dtype, shape } of sorted) {
    if (name === "__metadata__" || name in header) {
      throw new PrecisError("INPUT_INVALID", `Tensor name "${name}" is ${name in header ? "used twice" : "reserved"}.`);
    }
    if (shape.some((size) => !isSize(size))) {
      throw new PrecisError("INPUT_INVALID", `Tensor "${name}" cannot have the shape [${shape.join(", ")}].`);
    }
    const length = elementCount(shape) * BYTES_PER_ELEMENT[dtype];
    header[name] = { dtype: DTYPE_NAMES[dtype], shape, data_offsets: [position, position + length] };
    entries.push({ name, dtype, shape: [...shape], file, offset: position, length });
    position += length;
  }
  const head = encodeHead(JSON.stringify(header));
  for (const entry of entries) entry.offset += head.byteLength;
  return { head, entries, fileBytes: head.byteLength + position };
}

function encodeHead(json: string): Uint8Array {
  const text = new TextEncoder().encode(json);
  const bytes = Math.ceil((PREFIX_BYTES + text.byteLength) / DATA_ALIGNMENT) * DATA_ALIGNMENT;
  const head = new Uint8Array(bytes).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(bytes - PREFIX_BYTES), true);
  head.set(text, PREFIX_BYTES);
  return head;
}
