/** @file Rows in every precision: their sizes, how near they come back, and entropy coding that loses nothing. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { decodeContainer, encodeContainer } from "#precis/codec/container.js";
import {
  decodeRows,
  encodeRows,
  rowBytes,
  SNAPSHOT_PRECISIONS,
  type SnapshotPrecision,
} from "#precis/codec/row-precision.js";
import { codeSection, decodeSection } from "#precis/codec/section-coding.js";
import { normalGenerator } from "../reference/random-tensors.js";

function random(seed: number, length: number): Float32Array {
  return Float32Array.from({ length }, normalGenerator(seed));
}

function encoded(rows: Float32Array, precision: SnapshotPrecision, headDim: number): Uint8Array {
  const bytes = new Uint8Array(rowBytes(precision, rows.length / headDim, headDim));
  encodeRows(rows, 0, { precision, headDim, bytes });
  return bytes;
}

function decoded(bytes: Uint8Array, precision: SnapshotPrecision, headDim: number): Float32Array {
  const rows = new Float32Array((bytes.length / rowBytes(precision, 1, headDim)) * headDim);
  decodeRows(rows, 0, { precision, headDim, bytes });
  return rows;
}

const HEAD_DIMS = [1, 5, 64, 96];

/** The relative root-mean-square error of rows after a round trip. */
function lossOf(rows: Float32Array, precision: SnapshotPrecision, headDim: number): number {
  const bytes = encoded(rows, precision, headDim);
  expect(bytes).toHaveLength(rowBytes(precision, rows.length / headDim, headDim));
  const back = decoded(bytes, precision, headDim);
  const square = (values: Float32Array): number => values.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(square(rows.map((value, i) => value - back[i])) / square(rows));
}

describe("rows", () => {
  test.each(HEAD_DIMS)("of %i elements come back as near as their precision says", (headDim) => {
    const rows = random(3, 40 * headDim).map((value) => value * 4);
    expect(lossOf(rows, "fp32", headDim)).toBe(0);
    expect(lossOf(rows, "fp16", headDim)).toBeLessThan(5e-4);
    expect(lossOf(rows, "int8", headDim)).toBeLessThan(0.01);
    expect(lossOf(rows, "int4", headDim)).toBeLessThan(0.15);
  });

  test("with one channel much larger than the others lose none of the others' digits", () => {
    const rows = random(5, 64 * 20).map((value, i) => (i % 64 === 3 ? 30 + value : value));
    const bytes = encoded(rows, "int4", 64);
    const back = decoded(bytes, "int4", 64);
    const others = (values: Float32Array): Float32Array => values.filter((_, i) => i % 64 !== 3);
    const error = others(rows).map((value, i) => (value - others(back)[i]) ** 2);
    const power = others(rows).reduce((sum, value) => sum + value * value, 0);
    // One scale for all as they are, 30 / 7, would round every other element to zero: an error of 1.
    expect(error.reduce((sum, value) => sum + value, 0) / power).toBeLessThan(0.9);
  });

  test.each(SNAPSHOT_PRECISIONS)("in %s are the same in parts as in one piece, at any alignment", (precision) => {
    for (const headDim of HEAD_DIMS) {
      const rows = random(11, 9 * headDim);
      const whole = encoded(rows, precision, headDim);
      const shifted = new Uint8Array(whole.length + 1).subarray(1);
      const back = new Float32Array(rows.length);
      for (const first of [6, 3, 0]) {
        const part = [first * headDim, (first + 3) * headDim] as const;
        encodeRows(rows.subarray(...part), first, { precision, headDim, bytes: shifted });
        decodeRows(back.subarray(...part), first, { precision, headDim, bytes: shifted });
      }
      expect(shifted).toEqual(whole);
      expect(back).toEqual(decoded(whole, precision, headDim));
    }
  });

  test("take the bytes of their precision", () => {
    expect(SNAPSHOT_PRECISIONS.map((precision) => rowBytes(precision, 10, 64))).toEqual([2560, 1280, 660, 340]);
  });

  test("of zeros, of none, and beyond half precision stay finite", () => {
    for (const precision of ["fp16", "int8", "int4"] as const) {
      expect([...decoded(encoded(new Float32Array(8), precision, 8), precision, 8)]).toEqual(Array(8).fill(0));
      expect(decoded(encoded(new Float32Array(0), precision, 8), precision, 8)).toHaveLength(0);
      const huge = Float32Array.of(1e30, -1e30, 0, 1);
      expect(decoded(encoded(huge, precision, 4), precision, 4).every(Number.isFinite)).toBe(true);
    }
  });
});

describe("entropy coding", () => {
  test("loses nothing, for any bytes and element size", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.constantFrom(1, 2, 4), fc.nat(9), (noise, size, repeat) => {
        const bytes = Buffer.concat(Array.from({ length: repeat }, () => noise));
        const coded = codeSection(bytes, size);
        if (coded === undefined) return;
        expect(coded.length).toBeLessThan(bytes.length);
        expect(bytes.equals(decodeSection(coded, size, bytes.length)!)).toBe(true);
        expect(decodeSection(coded, size, bytes.length + 1)).toBeUndefined();
        expect(decodeSection(coded, size, bytes.length - 1)).toBeUndefined();
        expect(decodeSection(coded.subarray(0, -1), size, bytes.length)).toBeUndefined();
      }),
    );
  });

  test("makes rows smaller in every precision, and leaves what would grow", () => {
    for (const precision of SNAPSHOT_PRECISIONS) {
      const rows = encoded(random(7, 64 * 2000), precision, 64);
      const size = { fp32: 4, fp16: 2, int8: 1, int4: 1 }[precision];
      const sections = new Map([
        ["rows", rows],
        ["short", Uint8Array.of(1, 2, 3)],
      ]);
      const container = encodeContainer({ header: {}, sections }, { elementSize: size });
      expect(container.length).toBeLessThan(0.98 * rows.length);
      expect(new Map(decodeContainer(container).sections)).toEqual(sections);
    }
  });
});
