/** @file Half floats and element types, against their definitions. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import {
  BYTES_PER_ELEMENT,
  elementCount,
  floatToHalf,
  fromFloat32,
  halfToFloat,
  toFloat32,
} from "#precis/tensor/dtype.js";

/** Every finite half float and its bits, smallest first. */
const HALVES: readonly [value: number, bits: number][] = Array.from({ length: 0x7c00 }, (_, bits) => [
  bits < 0x400 ? bits * 2 ** -24 : (1 + (bits & 0x3ff) / 1024) * 2 ** ((bits >> 10) - 15),
  bits,
]);

describe("half floats", () => {
  test("every one of them reads as defined and writes back to itself", () => {
    for (const [value, bits] of HALVES) {
      expect(halfToFloat(bits)).toBe(value);
      expect(floatToHalf(value)).toBe(bits);
      expect(halfToFloat(bits | 0x8000)).toBe(-value);
      expect(floatToHalf(-value)).toBe(bits | 0x8000);
    }
  });

  test("numbers between two of them go to the nearer one, and halfway to the even one", () => {
    for (let i = 0; i + 1 < HALVES.length; i++) {
      const [[low, lowBits], [high, highBits]] = [HALVES[i], HALVES[i + 1]];
      const middle = (low + high) / 2;
      expect(floatToHalf(middle)).toBe(lowBits % 2 === 0 ? lowBits : highBits);
      expect(floatToHalf(middle - (high - low) / 8)).toBe(lowBits);
      expect(floatToHalf(middle + (high - low) / 8)).toBe(highBits);
    }
  });

  test("what is too large, infinite or no number stays so", () => {
    expect(floatToHalf(65519)).toBe(0x7bff);
    expect([65520, 1e9, Infinity].map(floatToHalf)).toEqual([0x7c00, 0x7c00, 0x7c00]);
    expect(floatToHalf(-Infinity)).toBe(0xfc00);
    expect(halfToFloat(0x7c00)).toBe(Infinity);
    expect(halfToFloat(floatToHalf(NaN))).toBeNaN();
    expect(Object.is(halfToFloat(0x8000), -0)).toBe(true);
  });
});

describe("bytes as float32", () => {
  test("of every integer type, at any alignment", () => {
    const cases = [
      ["int8", Int8Array.of(-128, 5, 127)],
      ["uint8", Uint8Array.of(0, 200, 255)],
      ["bool", Uint8Array.of(0, 1, 1)],
      ["int32", Int32Array.of(-(2 ** 20), 0, 7)],
      ["int64", BigInt64Array.of(-3n, 0n, 2n ** 20n)],
      ["float32", Float32Array.of(-0.5, 3e38, 1e-40)],
    ] as const;
    for (const [dtype, values] of cases) {
      for (const shift of [0, 1, 3]) {
        const bytes = new Uint8Array(values.byteLength + shift);
        bytes.set(new Uint8Array(values.buffer), shift);
        expect([...toFloat32(bytes.subarray(shift), dtype)]).toEqual(Array.from(values, Number));
        expect([...toFloat32(Buffer.from(bytes).subarray(shift), dtype)]).toEqual(Array.from(values, Number));
      }
      expect(BYTES_PER_ELEMENT[dtype]).toBe(values.BYTES_PER_ELEMENT);
    }
  });

  test("bfloat16 is the upper half of float32", () => {
    fc.assert(
      fc.property(fc.array(fc.float({ noNaN: true })), (values) => {
        const words = new Uint32Array(Float32Array.from(values).buffer).map((word) => word & 0xffff0000);
        const tops = Uint16Array.from(words, (word) => word >>> 16);
        expect([...toFloat32(new Uint8Array(tops.buffer), "bfloat16")]).toEqual([...new Float32Array(words.buffer)]);
      }),
    );
  });

  test.each(["float32", "float16", "bfloat16"] as const)("what was read as %s is written back as it was", (dtype) => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4, maxLength: 64 }), (bytes) => {
        const whole = bytes.slice(0, 4 * Math.floor(bytes.length / 4));
        const values = toFloat32(whole, dtype);
        fc.pre(values.every((value) => !Number.isNaN(value)));
        expect([...fromFloat32(values, dtype)]).toEqual([...whole]);
      }),
    );
  });

  test("bfloat16 is written as the nearest one, halfway to the even one", () => {
    const values = Float32Array.from([1, 1 + 2 ** -9, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -1 - 2 ** -8 - 2 ** -20, NaN]);
    const rounded = toFloat32(fromFloat32(values, "bfloat16"), "bfloat16");
    expect([...rounded]).toEqual([1, 1, 1, 1 + 2 ** -6, -1 - 2 ** -7, NaN]);
  });

  test("elements are counted by shape", () => {
    expect([[], [3], [2, 0, 4], [2, 3, 4]].map(elementCount)).toEqual([1, 3, 0, 24]);
  });
});
