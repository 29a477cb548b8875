/** @file Deterministic random tensors and a safetensors encoder for test checkpoints; shares no code with `src`. */

import { writeFileSync } from "node:fs";

/** Element types a test checkpoint can be stored in. */
export type StoredType = "float32" | "float16" | "bfloat16";

/** A tensor by value: `data` is row-major. */
export interface NamedTensor {
  shape: number[];
  data: Float32Array;
}

/** Standard normal numbers, the same sequence for the same seed on every machine (mulberry32 and Box-Muller). */
export function normalGenerator(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** A tensor of shape `shape` with elements `mean + std * normal()`. */
export function randomTensor(normal: () => number, shape: number[], std: number, mean = 0): NamedTensor {
  const count = shape.reduce((product, size) => product * size, 1);
  return { shape, data: Float32Array.from({ length: count }, () => mean + std * normal()) };
}

/** The 16 bits of the half float nearest to a finite `value` (ties to even; no overflow handling: tests stay small). */
function halfBits(value: number): number {
  const magnitude = Math.abs(value);
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude || 2 ** -15)));
  const scaled = magnitude / 2 ** (exponent - 10);
  const floor = Math.floor(scaled);
  const rounded = scaled - floor > 0.5 || (scaled - floor === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
  return (value < 0 ? 0x8000 : 0) | ((exponent + 14) * 1024 + rounded);
}

function halfValue(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

/** The stored bytes of `data`, and the values that a reader of those bytes sees. */
export function store(data: Float32Array, dtype: StoredType): { bytes: Uint8Array; seen: Float32Array } {
  if (dtype === "float32") return { bytes: new Uint8Array(data.slice().buffer), seen: data };
  if (dtype === "float16") {
    const halves = Uint16Array.from(data, halfBits);
    return { bytes: new Uint8Array(halves.buffer), seen: Float32Array.from(halves, halfValue) };
  }
  const words = new Uint32Array(data.slice().buffer);
  const tops = Uint16Array.from(words, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
  const seen = new Float32Array(Uint32Array.from(tops, (top) => top << 16).buffer);
  return { bytes: new Uint8Array(tops.buffer), seen };
}

const CODES = { float32: "F32", float16: "F16", bfloat16: "BF16" } as const;

/**
 * Writes a safetensors file.
 * @returns the values as a reader sees them, rounded to `dtype`
 */
export function writeSafetensors(
  file: string,
  tensors: Map<string, NamedTensor>,
  dtype: StoredType = "float32",
): Map<string, Float32Array> {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  const parts: Uint8Array[] = [];
  const seen = new Map<string, Float32Array>();
  let offset = 0;
  for (const [name, { shape, data }] of tensors) {
    const stored = store(data, dtype);
    header[name] = { dtype: CODES[dtype], shape, data_offsets: [offset, offset + stored.bytes.length] };
    offset += stored.bytes.length;
    parts.push(stored.bytes);
    seen.set(name, stored.seen);
  }
  const json = JSON.stringify(header);
  const text = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([size, text, ...parts]));
  return seen;
}
