/** @file Encodes GGUF version 3 files, the model format of llama.cpp. */
import { closeSync, openSync, writeSync } from "node:fs";

/** Tensors start at multiples of this many bytes. */
const ALIGNMENT = 32;

/** Numbers of the metadata value types in use. */
const VALUE_TYPE = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 } as const;

/** A metadata value with its type, since a JavaScript number does not tell an integer from a float. */
export type GgufValue =
  | { type: "uint32" | "int32" | "float32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "array"; of: "string"; value: readonly string[] }
  | { type: "array"; of: "int32"; value: readonly number[] };

/** Numbers of the tensor types in use. */
export const TENSOR_TYPE = { f32: 0, f16: 1, q4_0: 2, q8_0: 8 } as const;

/** A tensor type that {@link writeGguf} knows. */
export type GgufTensorType = keyof typeof TENSOR_TYPE;

/** One tensor; its bytes are asked for only when they are about to be written. */
export interface GgufTensor {
  name: string;
  /** Row-major, slowest axis first; GGUF itself stores the reverse order. */
  shape: readonly number[];
  type: GgufTensorType;
  bytes: () => Uint8Array;
}

/** Bytes of a tensor of this type and shape. */
export function tensorByteLength(type: GgufTensorType, shape: readonly number[]): number {
  const count = shape.reduce((product, size) => product * size, 1);
  const perBlock = { f32: 4 * 32, f16: 2 * 32, q4_0: 18, q8_0: 34 }[type];
  return (count / 32) * perBlock;
}

const align = (offset: number): number => Math.ceil(offset / ALIGNMENT) * ALIGNMENT;

/** Appends little-endian values. */
class ByteWriter {
  readonly #parts: Buffer[] = [];

  #number(size: number, write: (buffer: Buffer) => void): this {
    const buffer = Buffer.alloc(size);
    write(buffer);
    this.#parts.push(buffer);
    return this;
  }

  uint32(value: number): this {
    return this.#number(4, (buffer) => buffer.writeUInt32LE(value));
  }

  int32(value: number): this {
    return this.#number(4, (buffer) => buffer.writeInt32LE(value));
  }

  uint64(value: number): this {
    return this.#number(8, (buffer) => buffer.writeBigUInt64LE(BigInt(value)));
  }

  float32(value: number): this {
    return this.#number(4, (buffer) => buffer.writeFloatLE(value));
  }

  string(text: string): this {
    const bytes = Buffer.from(text);
    this.uint64(bytes.byteLength);
    this.#parts.push(bytes);
    return this;
  }

  value(entry: GgufValue): this {
    this.uint32(VALUE_TYPE[entry.type]);
    switch (entry.type) {
      case "uint32":
        return this.uint32(entry.value);
      case "int32":
        return this.int32(entry.value);
      case "float32":
        return this.float32(entry.value);
      case "bool":
        return this.#number(1, (buffer) => buffer.writeUInt8(entry.value ? 1 : 0));
      case "string":
        return this.string(entry.value);
      case "array":
        this.uint32(VALUE_TYPE[entry.of]).uint64(entry.value.length);
        if (entry.of === "string") for (const item of entry.value) this.string(item);
        else for (const item of entry.value) this.int32(item);
        return this;
    }
  }

  finish(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** Writes a GGUF file: header, metadata, tensor directory, then each tensor's bytes, aligned. */
export function writeGguf(
  path: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): void {
  const entries = Object.entries({ ...metadata, "general.alignment": { type: "uint32", value: ALIGNMENT } as const });
  const writer = new ByteWriter();
  writer.uint32(0x46554747).uint32(3).uint64(tensors.length).uint64(entries.length);
  for (const [key, value] of entries) writer.string(key).value(value);
  let offset = 0;
  for (const { name, shape, type } of tensors) {
    writer.string(name).uint32(shape.length);
    for (const size of shape.toReversed()) writer.uint64(size);
    writer.uint32(TENSOR_TYPE[type]).uint64(offset);
    offset = align(offset + tensorByteLength(type, shape));
  }
  const header = writer.finish();
  const dataStart = align(header.byteLength);
  const file = openSync(path, "w");
  try {
    writeSync(file, header, 0, header.byteLength, 0);
    let position = dataStart;
    for (const { name, shape, type, bytes } of tensors) {
      const data = bytes();
      const expected = tensorByteLength(type, shape);
      if (data.byteLength !== expected) throw new Error(`${name} has ${data.byteLength} bytes, not ${expected}.`);
      writeSync(file, data, 0, expected, position);
      position = align(position + expected);
    }
  } finally {
    closeSync(file);
  }
}
