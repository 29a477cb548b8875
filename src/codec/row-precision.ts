/** @file Rows of keys and values as bytes: exact, in half precision, or as 8- or 4-bit codes with a scale per vector. */
import { floatToHalf, halfToFloat, toFloat32 } from "../tensor/dtype.js";

/**
 * How stored rows are written: exact; half floats; or codes of 8 or 4 bits, with one half-float scale per slot and head.
 */
export type SnapshotPrecision = "fp32" | "fp16" | "int8" | "int4";

/** All precisions, from exact to small. */
export const SNAPSHOT_PRECISIONS: readonly SnapshotPrecision[] = ["fp32", "fp16", "int8", "int4"];

/** The largest half float; what lies beyond would become infinite. */
const LARGEST_HALF = 65504;
/** The largest code of each precision; codes are symmetric about zero. */
const LARGEST_CODE = { int8: 127, int4: 7 } as const;
/** Shares of the largest element that a code may stop at: to clip one outlier can save the others' digits. */
const CLIPS = { int8: [1], int4: [1, 0.93, 0.86, 0.79, 0.72] } as const;
const SCALE_BYTES = 2;

/** Bytes per element as entropy coding sees them. */
export function elementBytes(precision: SnapshotPrecision): number {
  return { fp32: 4, fp16: 2, int8: 1, int4: 1 }[precision];
}

/** Bytes of `vectors` vectors of `headDim` elements. */
export function rowBytes(precision: SnapshotPrecision, vectors: number, headDim: number): number {
  if (precision === "fp32" || precision === "fp16") return vectors * headDim * elementBytes(precision);
  return vectors * (SCALE_BYTES + (precision === "int8" ? headDim : Math.ceil(headDim / 2)));
}

/**
 * The orthonormal Walsh-Hadamard transform in place, its own inverse. It spreads single large channels of a vector over
 * all of them, so that one scale fits (as in QuaRot, arXiv:2404.00456). Only for powers of two.
 */
function rotate(vector: Float32Array): void {
  const { length } = vector;
  for (let half = 1; half < length; half *= 2) {
    for (let start = 0; start < length; start += 2 * half) {
      for (let i = start; i < start + half; i++) {
        const [a, b] = [vector[i] as number, vector[i + half] as number];
        vector[i] = a + b;
        vector[i + half] = a - b;
      }
    }
  }
  const norm = 1 / Math.sqrt(length);
  for (let i = 0; i < length; i++) vector[i] = (vector[i] as number) * norm;
}

function isRotated(headDim: number): boolean {
  return Number.isInteger(Math.log2(headDim));
}

/** Codes of a vector at a scale, into `codes`. @returns the squared error */
function quantizeVector(vector: Float32Array, scale: number, limit: number, codes: Int8Array): number {
  let error = 0;
  for (let i = 0; i < vector.length; i++) {
    const value = vector[i] as number;
    const code = scale === 0 ? 0 : Math.max(-limit, Math.min(limit, Math.round(value / scale)));
    codes[i] = code;
    error += (value - code * scale) ** 2;
  }
  return error;
}

function encodeCodes(rows: Float32Array, precision: "int8" | "int4", headDim: number): Uint8Array {
  const vectors = rows.length / headDim;
  const bytes = new Uint8Array(rowBytes(precision, vectors, headDim));
  const scales = new DataView(bytes.buffer);
  const width = (bytes.length - vectors * SCALE_BYTES) / vectors;
  const vector = new Float32Array(headDim);
  let [best, tried] = [new Int8Array(headDim), new Int8Array(headDim)];
  for (let index = 0; index < vectors; index++) {
    vector.set(rows.subarray(index * headDim, (index + 1) * headDim));
    if (isRotated(headDim)) rotate(vector);
    const largest = vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    let [bits, least] = [0, Infinity];
    for (const clip of CLIPS[precision]) {
      // With the scale that will be read, not the one that was meant.
      const rounded = floatToHalf(Math.min((clip * largest) / LARGEST_CODE[precision], LARGEST_HALF));
      const error = quantizeVector(vector, halfToFloat(rounded), LARGEST_CODE[precision], tried);
      if (error >= least) continue;
      [bits, least] = [rounded, error];
      [best, tried] = [tried, best];
    }
    scales.setUint16(index * SCALE_BYTES, bits, true);
    const at = vectors * SCALE_BYTES + index * width;
    for (let i = 0; i < headDim; i++) {
      const code = best[i] as number;
      if (precision === "int8") bytes[at + i] = code;
      else bytes[at + (i >> 1)] = (bytes[at + (i >> 1)] as number) | (((code + 8) & 15) << (4 * (i & 1)));
    }
  }
  return bytes;
}

function decodeCodes(bytes: Uint8Array, precision: "int8" | "int4", headDim: number): Float32Array {
  const vectors = bytes.length / rowBytes(precision, 1, headDim);
  const rows = new Float32Array(vectors * headDim);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = rowBytes(precision, 1, headDim) - SCALE_BYTES;
  for (let index = 0; index < vectors; index++) {
    const scale = halfToFloat(view.getUint16(index * SCALE_BYTES, true));
    const at = vectors * SCALE_BYTES + index * width;
    const vector = rows.subarray(index * headDim, (index + 1) * headDim);
    for (let i = 0; i < headDim; i++) {
      const code =
        precision === "int8" ? view.getInt8(at + i) : (((bytes[at + (i >> 1)] as number) >> (4 * (i & 1))) & 15) - 8;
      vector[i] = code * scale;
    }
    if (isRotated(headDim)) rotate(vector);
  }
  return rows;
}

/**
 * Rows as bytes.
 * @param rows [vectors, headDim]
 */
export function encodeRows(rows: Float32Array, precision: SnapshotPrecision, headDim: number): Uint8Array {
  if (precision === "fp32") return new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength);
  if (precision !== "fp16") return encodeCodes(rows, precision, headDim);
  const clamped = (value: number): number => Math.min(Math.max(value, -LARGEST_HALF), LARGEST_HALF);
  return new Uint8Array(Uint16Array.from(rows, (value) => floatToHalf(clamped(value))).buffer);
}

/**
 * The inverse of {@link encodeRows}, as near as the precision allows.
 * @param bytes as many as {@link rowBytes} says
 */
export function decodeRows(bytes: Uint8Array, precision: SnapshotPrecision, headDim: number): Float32Array {
  if (precision === "int8" || precision === "int4") return decodeCodes(bytes, precision, headDim);
  return toFloat32(bytes, precision === "fp16" ? "float16" : "float32");
}
