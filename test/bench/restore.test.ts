/** @file The arithmetic of restoring against re-reading: ratios, agreement, and what fits a context. */
import { describe, expect, test } from "vitest";
import { fitHistory } from "../../bench/restore/contestant.js";
import { ratioOfTimes, summarize, type Measured } from "../../bench/restore/summary.js";

describe("ratioOfTimes", () => {
  test("compares medians, and the extremes of both series", () => {
    expect(ratioOfTimes([900, 1000, 3000], [10, 20])).toEqual({ median: 1000 / 15, lowest: 45, highest: 300 });
  });

  test("is below 1 where re-reading is faster", () => {
    expect(ratioOfTimes([5], [10])).toEqual({ median: 0.5, lowest: 0.5, highest: 0.5 });
  });
});

describe("summarize", () => {
  const measured: Measured = {
    engine: "precis",
    memory: "ccm-merge",
    tokens: 10_000,
    slots: 2,
    format: "fp16",
    bytes: 500,
    restores: [10, 40, 20].map((milliseconds) => ({ milliseconds, token: 7 })),
    rereads: [{ milliseconds: 2000, token: 7 }],
  };

  test("gives medians of both sides", () => {
    const line = summarize(measured);
    expect(line).toMatchObject({ format: "fp16", bytes: 500, restoreMs: 20, rereadMs: 2000, sameToken: true });
    expect(line.ratio).toEqual({ median: 100, lowest: 50, highest: 200 });
  });

  test("notices one restore that goes on differently", () => {
    const restores = [...measured.restores, { milliseconds: 20, token: 8 }];
    expect(summarize({ ...measured, restores }).sameToken).toBe(false);
  });
});

describe("fitHistory", () => {
  test("keeps a history that fits with the prompt and the next token", () => {
    expect(fitHistory({ history: [1, 2, 3], prompt: [4] }, 5)).toEqual([1, 2, 3]);
  });

  test("keeps the end of one that does not", () => {
    expect(fitHistory({ history: [1, 2, 3], prompt: [4] }, 4)).toEqual([2, 3]);
  });
});
