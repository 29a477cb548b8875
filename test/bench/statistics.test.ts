/** @file The arithmetic of benchmarks: percentiles, slopes and growth. */
import { describe, expect, test } from "vitest";
import { growthOf, mean, percentile, slope } from "../../bench/statistics.js";

describe("percentile", () => {
  test("lies between the nearest two values", () => {
    expect(percentile([40, 10, 30, 20], 0.5)).toBe(25);
    expect(percentile([1, 2, 3, 4, 5], 0.95)).toBeCloseTo(4.8);
    expect([percentile([3, 1, 2], 0), percentile([3, 1, 2], 1)]).toEqual([1, 3]);
  });

  test("of one value is that value, of none is none", () => {
    expect(percentile([7], 0.95)).toBe(7);
    expect(percentile([], 0.5)).toBeNaN();
    expect(mean([])).toBeNaN();
  });
});

describe("slope", () => {
  test("is that of the straight line, whatever the noise around it", () => {
    const noise = [1, -1, -1, 1, 1, -1, -1, 1];
    expect(slope(noise.map((off, at) => ({ at, value: 100 + 3 * at + off })))).toBeCloseTo(3, 10);
  });

  test("is undefined at one point of time", () => {
    expect(slope([{ at: 1, value: 2 }])).toBeNaN();
  });
});

describe("growthOf", () => {
  const series = (valueAt: (at: number) => number) =>
    Array.from({ length: 101 }, (_, at) => ({ at, value: valueAt(at) }));

  test("sees a leak", () => {
    const growth = growthOf(series((at) => 500 + 2 * at));
    expect(growth.slope).toBeCloseTo(2);
    expect(growth.change).toBeCloseTo(50 / 625);
  });

  test("does not mind what happens in the first half", () => {
    const growth = growthOf(series((at) => Math.min(at, 50) * 10));
    expect(growth.slope).toBeCloseTo(0);
    expect(growth.change).toBeCloseTo(0);
  });
});
