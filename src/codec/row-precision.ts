/** @file Rows of keys and values as bytes: exact, in half precision, or as 8- or 4-bit codes with a scale per vector. */
import { floatsToHalves, floatToHalf, halfToFloat, halvesToFloats } from "../tensor/dtype.js";

/**
 * How stored rows are written: exact; half floats; or codes of 8 or 4 bits, with one half-float scale per slot and head.
 */
export type SnapshotPrecision = "fp32" | "fp16" | "int8" | "int4";

/** All precisions, from exact to small. */
export const SNAPSHOT_PRECISIONS: readonly SnapshotPrecision[] = ["fp32", "fp16", "int8", "int4"];

/** Rows as bytes: vectors of `headDim` elements, as many bytes as {@link rowBytes} says, at any alignment. */
export interface RowSection {
  readonly precision: SnapshotPrecision;
  readonly headDim: number;
  readonly bytes: Uint8Array;
}

type CodeSection = RowSection & { readonly precision: keyof typeof LARGEST_CODE };

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
  let half = 1;
  if (length >= 4) {
    // The first two rounds at once, as their steps are too short for loops of their own.
    for (let i = 0; i < length; i += 4) {
      const a = vector[i] as number;
      const b = vector[i + 1] as number;
      const c = vector[i + 2] as number;
      const d = vector[i + 3] as number;
      // Rounded as if it had been stored in between, so that codes come out the same.
      const sum = Math.fround(a + b);
      const difference = Math.fround(a - b);
      vector[i] = sum + Math.fround(c + d);
      vector[i + 1] = difference + Math.fround(c - d);
      vector[i + 2] = sum - Math.fround(c + d);
      vector[i + 3] = difference - Math.fround(c - d);
    }
    half = 4;
  }
  for (; half < length; half *= 2) {
    for (let start = 0; start < length; start += 2 * half) {
      for (let i = start; i < start + half; i++) {
        const a = vector[i] as number;
        const b = vector[i + half] as number;
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

/**
 * Writes vectors as codes: first the scales of all vectors of the section, then their codes.
 * @param first number of the first of these vectors within the section
 */
function encodeCodes(rows: Float32Array, first: number, { precision, headDim, bytes }: CodeSection): void {
  const scales = new DataView(bytes.buffer, bytes.byteOffset);
  const width = rowBytes(precision, 1, headDim) - SCALE_BYTES;
  const codesAt = (bytes.length / (SCALE_BYTES + width)) * SCALE_BYTES;
  const vector = new Float32Array(headDim);
  let [best, tried] = [new Int8Array(headDim), new Int8Array(headDim)];
  for (let index = 0; index < rows.length / headDim; index++) {
    vector.set(rows.subarray(index * headDim, (index + 1) * headDim));
    if (isRotated(headDim)) rotate(vector);
    let largest = 0;
    for (let i = 0; i < headDim; i++) largest = Math.max(largest, Math.abs(vector[i] as number));
    let [bits, least] = [0, Infinity];
    for (const clip of CLIPS[precision]) {
      // With the scale that will be read, not the one that was meant.
      const rounded = floatToHalf(Math.min((clip * largest) / LARGEST_CODE[precision], LARGEST_HALF));
      const error = quantizeVector(vector, halfToFloat(rounded), LARGEST_CODE[precision], tried);
      if (error >= least) continue;
      [bits, least] = [rounded, error];
      [best, tried] = [tried, best];
    }
    scales.setUint16((first + index) * SCALE_BYTES, bits, true);
    const at = codesAt + (first + index) * width;
    if (precision === "int8") bytes.set(best, at);
    else packNibbles(best, bytes.subarray(at, at + width));
  }
}

function packNibbles(codes: Int8Array, target: Uint8Array): void {
  for (let i = 0; i < target.length; i++) {
    const [low, high] = [codes[2 * i] as number, codes[2 * i + 1] ?? -8];
    target[i] = (low + 8) | ((high + 8) << 4);
  }
}

/** The inverse of {@link encodeCodes}. */
function decodeCodes(rows: Float32Array, first: number, { precision, headDim, bytes }: CodeSection): void {
  const scales = new DataView(bytes.buffer, bytes.byteOffset);
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  const width = rowBytes(precision, 1, headDim) - SCALE_BYTES;
  const codesAt = (bytes.length / (SCALE_BYTES + width)) * SCALE_BYTES;
  const vector = new Float32Array(headDim);
  for (let index = 0; index < rows.length / headDim; index++) {
    const scale = halfToFloat(scales.getUint16((first + index) * SCALE_BYTES, true));
    const at = codesAt + (first + index) * width;
    if (precision === "int8") for (let i = 0; i < headDim; i++) vector[i] = (signed[at + i] as number) * scale;
    else {
      for (let i = 0; i < headDim; i++) {
        vector[i] = ((((bytes[at + (i >> 1)] as number) >> (4 * (i & 1))) & 15) - 8) * scale;
      }
    }
    if (isRotated(headDim)) rotate(vector);
    rows.set(vector, index * headDim);
  }
}

/** Half floats as 16-bit numbers, in place where they are aligned. */
function halvesOf(bytes: Uint8Array): { halves: Uint16Array; inPlace: boolean } {
  const inPlace = bytes.byteOffset % 2 === 0;
  // `slice` of a Buffer would not copy, so the plain array's is used.
  const aligned = inPlace ? bytes : Uint8Array.prototype.slice.call(bytes);
  return { halves: new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 2), inPlace };
}

function encodeHalves(rows: Float32Array, bytes: Uint8Array): void {
  const { halves, inPlace } = halvesOf(bytes);
  floatsToHalves(rows, halves);
  for (let i = 0; i < halves.length; i++) {
    // Infinite is what lies beyond the largest half float; what is no number stays none.
    if (((halves[i] as number) & 0x7fff) === 0x7c00) halves[i] = (halves[i] as number) - 1;
  }
  if (!inPlace) bytes.set(new Uint8Array(halves.buffer));
}

/** Where the bytes of rows begin and end. */
function rangeOf(rows: Float32Array, first: number, { precision, headDim }: RowSection): [from: number, to: number] {
  const end = first + rows.length / headDim;
  return [rowBytes(precision, first, headDim), rowBytes(precision, end, headDim)];
}

function asBytes({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/**
 * Writes rows as bytes, in place within a section.
 * @param rows [vectors, headDim]
 * @param first number of the first of these vectors within the section
 */
export function encodeRows(rows: Float32Array, first: number, section: RowSection): void {
  const { precision, headDim, bytes } = section;
  if (precision === "int8" || precision === "int4") return encodeCodes(rows, first, { precision, headDim, bytes });
  const part = bytes.subarray(...rangeOf(rows, first, section));
  if (precision === "fp32") part.set(asBytes(rows));
  else encodeHalves(rows, part);
}

/**
 * The inverse of {@link encodeRows}, as near as the precision allows.
 * @param rows [vectors, headDim], where the values go
 * @param first number of the first of these vectors within the section
 */
export function decodeRows(rows: Float32Array, first: number, section: RowSection): void {
  const { precision, headDim, bytes } = section;
  if (precision === "int8" || precision === "int4") return decodeCodes(rows, first, { precision, headDim, bytes });
  const part = bytes.subarray(...rangeOf(rows, first, section));
  if (precision === "fp32") asBytes(rows).set(part);
  else halvesToFloats(halvesOf(part).halves, rows);
}
