/** @file Measures and their intervals against values worked out by hand, and by repeated experiments. */
import { describe, expect, test } from "vitest";
import { SeededRandom } from "#precis/data/random.js";
import { bootstrap, difference, estimate, gapClosed } from "#precis/eval/bootstrap.js";
import { argmax, METRICS, perplexity, total } from "#precis/eval/metrics.js";
import { parseMethodSpec } from "#precis/eval/method-spec.js";

describe("measures", () => {
  test("perplexity pools tokens; accuracy and error average over sources", () => {
    const strata = [
      { sum: 2 * Math.log(4), count: 2 },
      { sum: 6 * Math.log(2), count: 6 },
    ];
    expect(perplexity({ sum: Math.log(8), count: 3 })).toBeCloseTo(2, 12);
    expect(METRICS.perplexity.combine(strata)).toBeCloseTo(2 ** (10 / 8), 12);
    // One task with many questions does not outweigh one with few.
    expect(
      METRICS.accuracy.combine([
        { sum: 1, count: 2 },
        { sum: 90, count: 90 },
      ]),
    ).toBeCloseTo(0.75, 12);
    expect(METRICS.mae.combine([{ sum: 3, count: 2 }])).toBeCloseTo(1.5, 12);
    expect(
      total([
        { sum: 1, count: 2 },
        { sum: 3, count: 4 },
      ]),
    ).toEqual({ sum: 4, count: 6 });
    expect(argmax([-3, -1, -2, -1])).toBe(1);
  });
});

describe("bootstrap", () => {
  const fractions = (values: readonly number[]): { sum: number; count: number }[] =>
    values.map((value) => ({ sum: value, count: 1 }));

  test("intervals cover the true mean about as often as they say", () => {
    let covered = 0;
    const trials = 300;
    for (let trial = 0; trial < trials; trial++) {
      const random = new SeededRandom("coverage", trial);
      // Two tasks with different means, questions in clusters of like difficulty: the true mean is 0.5.
      const strata = [0.3, 0.7].map((mean) =>
        Array.from({ length: 30 }, () => {
          const shared = random.next() * 0.4 - 0.2;
          const hits = Array.from({ length: 4 }, () => Number(random.chance(mean + shared)));
          return { sum: hits.reduce((sum, hit) => sum + hit, 0), count: 4 };
        }),
      );
      const { low, high } = estimate(bootstrap(METRICS.accuracy, strata, { key: [trial], replicates: 300 }));
      if (low <= 0.5 && 0.5 <= high) covered++;
    }
    expect(covered / trials).toBeGreaterThan(0.9);
    expect(covered / trials).toBeLessThan(0.99);
  });

  test("equal keys draw equal samples", () => {
    const strata = [fractions([1, 2, 3, 4, 5])];
    const once = bootstrap(METRICS.mae, strata, { key: [1] });
    expect(bootstrap(METRICS.mae, strata, { key: [1] })).toEqual(once);
    expect(bootstrap(METRICS.mae, strata, { key: [2] })).not.toEqual(once);
    const { value, low, high } = estimate(once);
    expect(value).toBe(3);
    expect(low).toBeGreaterThan(1);
    expect(high).toBeLessThan(5);
  });

  test("no spread, no interval", () => {
    expect(estimate(bootstrap(METRICS.mae, [fractions([2, 2, 2])], { key: [0] }))).toEqual({
      value: 2,
      low: 2,
      high: 2,
    });
  });

  test("the gap is compared case by case", () => {
    const of = (values: readonly number[]): ReturnType<typeof bootstrap> =>
      bootstrap(METRICS.mae, [fractions(values)], { key: ["gap"] });
    const none = of([10, 20, 30, 40]);
    const full = of([5, 10, 15, 20]);
    // Exactly half-way in every case, so the interval is a point although the cases differ a lot.
    const halfWay = estimate(gapClosed(of([7.5, 15, 22.5, 30]), none, full));
    expect(halfWay.value).toBeCloseTo(0.5, 12);
    expect(halfWay.low).toBeCloseTo(0.5, 12);
    expect(halfWay.high).toBeCloseTo(0.5, 12);
    expect(estimate(gapClosed(full, none, full))).toEqual({ value: 1, low: 1, high: 1 });
    expect(estimate(gapClosed(none, none, full)).value).toBeCloseTo(0, 12);
  });

  test("differences are those of the same draws, so that what all cases share cancels out", () => {
    const of = (values: readonly number[]): ReturnType<typeof bootstrap> =>
      bootstrap(METRICS.mae, [fractions(values)], { key: ["difference"] });
    const apart = estimate(difference(of([1, 20, 300]), of([3, 22, 302])));
    expect(apart.value).toBeCloseTo(-2, 12);
    expect(apart.high - apart.low).toBeCloseTo(0, 9);
  });
});

describe("method specs", () => {
  test.each([
    ["full", { method: "full", adapter: undefined, options: {} }, false],
    ["sliding-window,window=64", { method: "sliding-window", adapter: undefined, options: { window: "64" } }, false],
    [
      "ccm-concat:a/b,recursive=false",
      { method: "ccm-concat", adapter: "a/b", options: { recursive: "false" } },
      false,
    ],
    ["ccm-merge:C:\\x,shuffled=true", { method: "ccm-merge", adapter: "C:\\x", options: {} }, true],
    ["gist-online:dir", { method: "ccm-concat", adapter: "dir", options: { recursive: "false" } }, false],
  ])("%s", (text, memory, shuffled) => {
    expect(parseMethodSpec(text)).toEqual({ label: text, memory, shuffled });
  });

  test("a budget is no option of the method", () => {
    expect(parseMethodSpec("streaming,budget=160,sink=2")).toMatchObject({
      memory: { options: { sink: "2" } },
      budget: 160,
    });
  });

  test.each([
    ["fulll", "METHOD_UNKNOWN"],
    ["", "METHOD_UNKNOWN"],
    ["full,window", "OPTION_INVALID"],
    ["full,=1", "OPTION_INVALID"],
    ["full,shuffled=maybe", "OPTION_INVALID"],
    ["sliding-window,budget=0", "OPTION_INVALID"],
    ["gist-online", "OPTION_INVALID"],
  ])("%s is refused", (text, code) => {
    expect(() => parseMethodSpec(text)).toThrow(expect.objectContaining({ code }));
  });
});
