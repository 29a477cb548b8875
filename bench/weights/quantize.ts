/** @file llama.cpp's block formats Q4_0 and Q8_0: 32 values share one half-float scale. */

const BLOCK = 32;

const floatBits = new Float32Array(1);
const intBits = new Uint32Array(floatBits.buffer);

/** Half-float bits of `value`, rounded to nearest even; magnitudes below 2^-14 flush to zero, as no scale here is that small. */
function toHalf(value: number): number {
  floatBits[0] = value;
  const bits = intBits[0] as number;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude < 0x38800000) return sign;
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

/**
 * Q4_0: the element furthest from zero becomes -8 exactly, the others the nearest of -8…7 steps.
 * @param values a multiple of 32 values, so that no block crosses a row
 */
export function quantizeQ4(values: Float32Array): Uint8Array {
  const blocks = values.length / BLOCK;
  const bytes = new Uint8Array(blocks * 18);
  for (let block = 0, source = 0, target = 0; block < blocks; block++, source += BLOCK, target += 18) {
    let furthest = 0;
    for (let i = 0; i < BLOCK; i++) {
      const value = values[source + i] as number;
      if (Math.abs(value) > Math.abs(furthest)) furthest = value;
    }
    const scale = furthest / -8;
    const inverse = scale === 0 ? 0 : 1 / scale;
    const half = toHalf(scale);
    bytes[target] = half & 0xff;
    bytes[target + 1] = half >>> 8;
    for (let i = 0; i < BLOCK / 2; i++) {
      const low = Math.min(15, ((values[source + i] as number) * inverse + 8.5) | 0);
      const high = Math.min(15, ((values[source + i + 16] as number) * inverse + 8.5) | 0);
      bytes[target + 2 + i] = low | (high << 4);
    }
  }
  return bytes;
}

/** Q8_0: symmetric, the element furthest from zero becomes ±127. */
export function quantizeQ8(values: Float32Array): Uint8Array {
  const blocks = values.length / BLOCK;
  const bytes = new Uint8Array(blocks * 34);
  for (let block = 0, source = 0, target = 0; block < blocks; block++, source += BLOCK, target += 34) {
    let largest = 0;
    for (let i = 0; i < BLOCK; i++) largest = Math.max(largest, Math.abs(values[source + i] as number));
    const scale = largest / 127;
    const inverse = scale === 0 ? 0 : 1 / scale;
    const half = toHalf(scale);
    bytes[target] = half & 0xff;
    bytes[target + 1] = half >>> 8;
    for (let i = 0; i < BLOCK; i++) bytes[target + 2 + i] = Math.round((values[source + i] as number) * inverse) & 0xff;
  }
  return bytes;
}
