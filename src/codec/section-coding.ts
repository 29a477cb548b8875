/** @file Entropy coding of a section: equal bytes of neighbouring elements side by side, then DEFLATE (RFC 1951). */
import { constants, deflateRawSync, inflateRawSync } from "node:zlib";

/**
 * Bytes of the same place of all elements one after another: exponents repeat, and coded apart from the noise of
 * mantissas they take less.
 * @param size bytes per element; what does not fill an element stays at the end
 */
function toPlanes(bytes: Uint8Array, size: number): Uint8Array {
  const count = Math.floor(bytes.length / size);
  const planes = new Uint8Array(bytes);
  for (let plane = 0; plane < size; plane++) {
    for (let i = 0; i < count; i++) planes[plane * count + i] = bytes[i * size + plane] as number;
  }
  return planes;
}

/** The inverse of {@link toPlanes}. */
function fromPlanes(planes: Uint8Array, size: number): Uint8Array {
  const count = Math.floor(planes.length / size);
  const bytes = new Uint8Array(planes);
  for (let plane = 0; plane < size; plane++) {
    for (let i = 0; i < count; i++) bytes[i * size + plane] = planes[plane * count + i] as number;
  }
  return bytes;
}

/**
 * `bytes` in less room, or undefined if they do not get smaller.
 * @param elementSize bytes per element
 */
export function codeSection(bytes: Uint8Array, elementSize: number): Uint8Array | undefined {
  const planes = elementSize === 1 ? bytes : toPlanes(bytes, elementSize);
  // Rows hold no repeated strings worth looking for: Huffman codes alone are as small and several times as fast.
  const coded = deflateRawSync(planes, { strategy: constants.Z_HUFFMAN_ONLY });
  return coded.length < bytes.length ? coded : undefined;
}

/** Whether {@link codeSection} can have made so many bytes of `length`: no code is shorter than a bit, for a byte each. */
export function canUnpackTo(length: number, coded: number): boolean {
  return length <= 8 * coded;
}

/**
 * The inverse of {@link codeSection}; undefined for what it did not write.
 * @param length of the bytes; never more are made
 */
export function decodeSection(coded: Uint8Array, elementSize: number, length: number): Uint8Array | undefined {
  try {
    const planes = inflateRawSync(coded, { maxOutputLength: Math.max(length, 1) });
    if (planes.length !== length) return undefined;
    return elementSize === 1 ? new Uint8Array(planes) : fromPlanes(planes, elementSize);
  } catch {
    return undefined;
  }
}
