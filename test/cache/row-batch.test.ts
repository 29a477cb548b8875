/** @file Rows that come and go in a batch lie side by side, hold what they held, and are not all copied each time. */
import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { KvRow } from "#precis/cache/kv-row.js";
import type { KvShape } from "#precis/cache/kv-store.js";
import { RowBatch } from "#precis/cache/row-batch.js";

const SHAPE: KvShape = { layers: 2, kvHeads: 2, headDim: 4 };
let next = 0;

function grow(row: KvRow, count: number): void {
  const data = (): Float32Array => Float32Array.from({ length: count * 8 }, () => next++);
  const rows = { keys: [data(), data()], values: [data(), data()], seq: count };
  const positions = Array.from({ length: count }, (_, i) => row.length + i);
  row.append(rows, 0, 0, positions, "text");
}

/** All that a row holds, in a form that is quick to compare. */
function contents(row: KvRow): string {
  const { keys, values, positions } = row.export();
  return [...keys, ...values, positions].join(";");
}

function rowOf(length: number): KvRow {
  const row = new KvRow(SHAPE);
  grow(row, length);
  return row;
}

describe("a batch of rows", () => {
  test("keeps what rows hold while they join, leave and grow", () => {
    const change = fc.record({
      leaving: fc.array(fc.nat(9), { maxLength: 4 }),
      joining: fc.array(fc.integer({ min: 0, max: 40 }), { maxLength: 4 }),
      growth: fc.integer({ min: 0, max: 3 }),
    });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 8 }), (changes) => {
        const batch = new RowBatch();
        let rows: KvRow[] = [];
        const gone: [KvRow, string][] = [];
        for (const { leaving, joining, growth } of changes) {
          for (const row of rows.filter((_, index) => leaving.includes(index))) gone.push([row, contents(row)]);
          rows = [...rows.filter((_, index) => !leaving.includes(index)), ...joining.map(rowOf)];
          const before = new Map(rows.map((row) => [row, contents(row)]));
          const held = batch.hold(rows);
          expect(new Set(held)).toEqual(new Set(rows));
          for (const [place, row] of held.entries()) {
            expect(contents(row)).toBe(before.get(row));
            if (held.length > 1) expect([row.store, row.index]).toEqual([held[0]?.store, place]);
            else expect(row.store.batch).toBe(1);
          }
          if (growth > 0) for (const row of rows) grow(row, growth);
        }
        for (const [row, held] of gone) {
          expect(row.store.batch).toBe(1);
          expect(contents(row)).toBe(held);
        }
      }),
      { numRuns: 60 },
    );
  });

  test("leaves the others where they are when one leaves and another joins", () => {
    const batch = new RowBatch();
    const rows = [5, 6, 7, 8, 5, 6, 7, 8].map(rowOf);
    const [first] = batch.hold(rows);
    const store = first?.store;
    const changed = [...rows.slice(0, 2), ...rows.slice(3), rowOf(6)];
    const places = new Map(changed.map((row) => [row, row.index]));
    const held = batch.hold(changed);
    expect(held.every((row) => row.store === store)).toBe(true);
    for (const row of rows.toSpliced(2, 1)) expect(row.index).toBe(places.get(row));
    expect(rows[2]?.store.batch).toBe(1);
  });

  test("gives up room once its longest row has left", () => {
    const batch = new RowBatch();
    const rows = [10, 12, 400].map(rowOf);
    batch.hold(rows);
    const [first] = batch.hold(rows.slice(0, 2));
    expect(first?.store.capacity).toBeLessThan(40);
  });
});
