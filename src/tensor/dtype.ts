/** @file Element types of tensors, their sizes, and conversion of half floats to float32. */

/** Element types that graphs, weights and snapshots use. */
export type DType = "float32" | "float16" | "bfloat16" | "int64" | "int32" | "int8" | "uint8" | "bool";

/** Bytes per element of each {@link DType}. */
export const BYTES_PER_ELEMENT: Readonly<Record<DType, number>> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int64: 8,
  int32: 4,
  int8: 1,
  uint8: 1,
  bool: 1,
};

/** Number of elements of a tensor of this shape (1 for a scalar). */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** The float32 value of one IEEE half float given by its 16 bits. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The 16 bits of the IEEE half float nearest to `value` (ties to even; overflow becomes infinity). */
export function floatToHalf(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0] as number;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x33000001) return sign;
  const exponent = magnitude >>> 23;
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  // Subnormal halves shift the implicit one in; normal ones only drop 13 bits. Both round to nearest even.
  const shift = exponent < 113 ? 126 - exponent : 13;
  const kept = exponent < 113 ? mantissa >>> shift : (magnitude - 0x38000000) >>> 13;
  const dropped = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  const roundUp = dropped > half || (dropped === half && (kept & 1) === 1);
  return sign | (kept + (roundUp ? 1 : 0));
}

const halfTable: Float32Array = Float32Array.from({ length: 65536 }, (_, bits) => halfToFloat(bits));

/** Half floats, given by their bits, as float32 values into `target`, which has as many elements. */
export function halvesToFloats(halves: Uint16Array, target: Float32Array): void {
  // Plain loops here and below: a callback for each element would take ten times as long.
  for (let i = 0; i < halves.length; i++) target[i] = halfTable[halves[i] as number] as number;
}

/** The bits of the half floats nearest to `values` into `target`, which has as many elements; see {@link floatToHalf}. */
export function floatsToHalves(values: Float32Array, target: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const bits = words[i] as number;
    const magnitude = bits & 0x7fffffff;
    // Normal halves only lose 13 bits; carries of the rounding run into the exponent, as they should.
    target[i] =
      magnitude >= 0x38800000 && magnitude < 0x47800000
        ? ((bits >>> 16) & 0x8000) | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
        : floatToHalf(values[i] as number);
  }
}

/**
 * Little-endian bytes of `dtype` as float32 values.
 * @param bytes any alignment; the length must be a multiple of the element size
 */
export function toFloat32(bytes: Uint8Array, dtype: DType): Float32Array {
  const count = bytes.byteLength / BYTES_PER_ELEMENT[dtype];
  // Typed arrays need aligned offsets, which files do not promise.
  // `slice` of a Buffer would not copy, so the plain array's is used.
  const aligned = bytes.byteOffset % BYTES_PER_ELEMENT[dtype] === 0 ? bytes : Uint8Array.prototype.slice.call(bytes);
  const { buffer, byteOffset } = aligned;
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer, byteOffset, count);
    case "float16": {
      const values = new Float32Array(count);
      halvesToFloats(new Uint16Array(buffer, byteOffset, count), values);
      return values;
    }
    case "bfloat16": {
      const words = new Uint32Array(count);
      const source = new Uint16Array(buffer, byteOffset, count);
      for (let i = 0; i < count; i++) words[i] = (source[i] as number) << 16;
      return new Float32Array(words.buffer);
    }
    case "int64":
      return Float32Array.from(new BigInt64Array(buffer, byteOffset, count), Number);
    case "int32":
      return Float32Array.from(new Int32Array(buffer, byteOffset, count));
    case "int8":
      return Float32Array.from(new Int8Array(buffer, byteOffset, count));
    case "uint8":
    case "bool":
      return Float32Array.from(aligned);
  }
}

/** The upper 16 bits of a float32, rounded to the nearest (ties to even). */
function floatToBfloat(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0] as number;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** Float types, which weights are stored in. */
export type FloatDType = Extract<DType, "float32" | "float16" | "bfloat16">;

/** Whether elements of this type are floating-point numbers. */
export function isFloat(dtype: DType): dtype is FloatDType {
  return dtype === "float32" || dtype === "float16" || dtype === "bfloat16";
}

/** float32 values as little-endian bytes of `dtype`, each rounded to the nearest. The inverse of {@link toFloat32}. */
export function fromFloat32(values: Float32Array, dtype: FloatDType): Uint8Array {
  if (dtype === "float32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice();
  const halves = new Uint16Array(values.length);
  if (dtype === "float16") floatsToHalves(values, halves);
  else for (let i = 0; i < halves.length; i++) halves[i] = floatToBfloat(values[i] as number);
  return new Uint8Array(halves.buffer);
}
