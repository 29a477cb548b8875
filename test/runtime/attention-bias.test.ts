/** @file Who sees whom in a run: causality, padding, windows, and what a method hides. */

import { fc } from "../property.js";
import { expect, test } from "vitest";

import { attentionBias, type BiasRow } from "#precis/runtime/attention-bias.js";

/** Rows of "x" (seen) and "." (hidden), the cached slots before the bar. */
function drawn(rows: readonly BiasRow[], seq: number, capacity: number, window?: number): string[] {
  const bias = attentionBias(rows, seq, capacity, window);
  const total = capacity + seq;
  expect(bias).toHaveLength(rows.length * seq * total);
  return Array.from({ length: rows.length * seq }, (_, row) => {
    const marks = [...bias.subarray(row * total, (row + 1) * total)].map((value) => (value === 0 ? "x" : "."));
    return `${marks.slice(0, capacity).join("")}|${marks.slice(capacity).join("")}`;
  });
}

test("new tokens see the cache and each other, backwards", () => {
  const row: BiasRow = { pastPositions: [0, 1], pastKinds: ["text", "text"], positions: [2, 3, 4] };
  expect(drawn([row], 3, 2)).toEqual(["xx|x..", "xx|xx.", "xx|xxx"]);
});

test("unused slots are hidden, and padding sees only itself", () => {
  const long: BiasRow = { pastPositions: [0, 1, 2], pastKinds: ["text", "text", "text"], positions: [3, 4] };
  const short: BiasRow = { pastPositions: [0], pastKinds: ["text"], positions: [1] };
  expect(drawn([long, short], 2, 4)).toEqual(["xxx.|x.", "xxx.|xx", "x...|x.", "....|.x"]);
});

test("a window counts positions, but never hides sinks or memory", () => {
  const row: BiasRow = {
    pastPositions: [0, 1, 9, 10, 11],
    pastKinds: ["sink", "memory", "text", "text", "text"],
    positions: [12, 13],
  };
  expect(drawn([row], 2, 5, 3)).toEqual(["xx.xx|x.", "xx..x|xx"]);
});

test("a method may hide more, but shows nothing that causality hides", () => {
  fc.assert(
    fc.property(fc.nat(4), fc.integer({ min: 1, max: 4 }), fc.infiniteStream(fc.boolean()), (past, seq, coins) => {
      const seen = new Map<string, boolean>();
      const visible = (query: number, key: number): boolean => {
        const name = `${query},${key}`;
        if (!seen.has(name)) seen.set(name, coins.next().value as boolean);
        return seen.get(name) as boolean;
      };
      const row: BiasRow = {
        pastPositions: [...Array.from({ length: past }).keys()],
        pastKinds: Array.from({ length: past }, () => "text"),
        positions: Array.from({ length: seq }, (_, i) => past + i),
        visible,
      };
      const lines = drawn([row], seq, past).map((line) => line.replace("|", ""));
      lines.forEach((line, query) =>
        [...line].forEach((mark, key) => {
          expect(mark === "x").toBe(key <= past + query && visible(query, key));
        }),
      );
    }),
  );
});
