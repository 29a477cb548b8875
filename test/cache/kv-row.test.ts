/** @file Cache rows against plain lists of slots, whatever is done to them, alone or in shared stores. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { KvRow, type NewRows } from "#precis/cache/kv-row.js";
import { RowBatch } from "#precis/cache/row-batch.js";
import { KvStore, slotBytes, type KvShape } from "#precis/cache/kv-store.js";
import type { SlotKind } from "#precis/cache/slot-list.js";
import { rotaryConfig } from "#precis/models/rotary.js";

const SHAPE: KvShape = { layers: 2, kvHeads: 2, headDim: 4 };
const WIDTH = SHAPE.kvHeads * SHAPE.headDim;
const ROTARY = [rotaryConfig({}, 4, 64), rotaryConfig({ rope_theta: 100 }, 4, 64)];

/** A slot as a plain list: [layer][keys, values][head · headDim]. */
interface Slot {
  parts: number[][][];
  position: number;
  kind: SlotKind;
}

let nextValue = 0;
/** The rows of a pass over `seq` tokens of `batch` sequences, every element another number. */
function freshRows(batch: number, seq: number): NewRows {
  const layer = (): Float32Array => Float32Array.from({ length: batch * seq * WIDTH }, () => ++nextValue % 9973);
  return { keys: [layer(), layer()], values: [layer(), layer()], seq };
}

function slotOf(rows: NewRows, at: number, position: number, kind: SlotKind): Slot {
  const part = (data: Float32Array): number[] => [...data.subarray(at * WIDTH, (at + 1) * WIDTH)];
  return { parts: [0, 1].map((l) => [part(rows.keys[l]), part(rows.values[l])]), position, kind };
}

/** A row with the same slots, filled head by head. */
function rebuilt(row: KvRow): KvRow {
  const copy = KvRow.blank(SHAPE, row);
  for (let layer = 0; layer < SHAPE.layers; layer++) {
    for (const part of ["keys", "values"] as const) {
      const sources = row.heads(layer)[part];
      copy.heads(layer)[part].forEach((head, index) => head.set(sources[index]));
    }
  }
  return copy;
}

function expectSlots(row: KvRow, slots: readonly Slot[]): void {
  expect(row.length).toBe(slots.length);
  const { keys, values, positions, kinds } = row.export();
  expect([positions, kinds]).toEqual([slots.map((slot) => slot.position), slots.map((slot) => slot.kind)]);
  [keys, values].forEach((layers, part) =>
    layers.forEach((data, layer) => {
      const expected = [0, 1].flatMap((head) =>
        slots.flatMap((slot) => slot.parts[layer][part].slice(head * 4, head * 4 + 4)),
      );
      expect(data).toHaveLength(expected.length);
      expected.forEach((value, i) => expect(data[i]).toBeCloseTo(value, 2));
    }),
  );
}

type Command =
  | { do: "append"; count: number; kind: SlotKind }
  | { do: "truncate"; to: number }
  | { do: "arrange"; order: number[] }
  | { do: "blend"; slot: number; other: number; weight: number }
  | { do: "pool"; from: number; runs: number[] }
  | { do: "move"; slot: number; position: number }
  | { do: "settle" | "clone" | "rebuild" | "detach" | "gather" };

const share = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const command: fc.Arbitrary<Command> = fc.oneof(
  fc.record({
    do: fc.constant("append" as const),
    count: fc.integer({ min: 1, max: 20 }),
    kind: fc.constantFrom<SlotKind>("text", "sink", "memory"),
  }),
  fc.record({ do: fc.constant("truncate" as const), to: share }),
  fc.record({ do: fc.constant("arrange" as const), order: fc.array(share, { maxLength: 12 }) }),
  fc.record({ do: fc.constant("blend" as const), slot: share, other: share, weight: fc.constantFrom(0, 0.25, 1) }),
  fc.record({
    do: fc.constant("pool" as const),
    from: share,
    runs: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 8, maxLength: 8 }),
  }),
  fc.record({ do: fc.constant("move" as const), slot: share, position: fc.nat(60) }),
  fc.record({ do: fc.constantFrom("settle" as const, "clone", "rebuild", "detach", "gather") }),
);

/** Does a command to a row and its plain counterpart. @returns both, which may be new ones */
function perform(row: KvRow, slots: readonly Slot[], given: Command): [KvRow, Slot[]] {
  const at = (part: number): number => Math.floor(part * slots.length);
  switch (given.do) {
    case "append": {
      const rows = freshRows(2, given.count + 1);
      const positions = Array.from({ length: given.count }, (_, i) => slots.length + i);
      row.append(rows, 1, 1, positions, given.kind);
      const added = positions.map((position, i) => slotOf(rows, given.count + 1 + 1 + i, position, given.kind));
      return [row, [...slots, ...added]];
    }
    case "truncate":
      row.truncate(at(given.to));
      return [row, slots.slice(0, at(given.to))];
    case "arrange": {
      if (slots.length === 0) return [row, []];
      // A slot may be dropped, moved or doubled.
      const order = given.order.map(at);
      row.arrange(order.slice(0, row.length));
      return [row, order.slice(0, slots.length).map((slot) => structuredClone(slots[slot]))];
    }
    case "blend": {
      if (slots.length === 0) return [row, []];
      const [slot, other] = [at(given.slot), at(given.other)];
      row.blend(slot, other, given.weight);
      const mixed = slots[slot].parts.map((parts, l) =>
        parts.map((data, p) =>
          data.map((value, i) => (1 - given.weight) * value + given.weight * slots[other].parts[l][p][i]),
        ),
      );
      const blended = { ...slots[slot], parts: mixed, position: slots[other].position };
      return [row, slots.map((old, i) => (i === slot ? blended : old))];
    }
    case "pool": {
      const from = at(given.from);
      const runs: number[] = [];
      for (let left = slots.length - from; left > 0; left -= runs[runs.length - 1]) {
        runs.push(Math.min(left, given.runs[runs.length % given.runs.length]));
      }
      row.pool(from, runs);
      let start = from;
      const pooled = runs.map((length): Slot => {
        const run = slots.slice(start, (start += length));
        const parts = run[0].parts.map((layer, l) =>
          layer.map((data, p) => data.map((_, i) => run.reduce((sum, one) => sum + one.parts[l][p][i], 0) / length)),
        );
        return { parts, position: run[length - 1].position, kind: "memory" };
      });
      return [row, [...slots.slice(0, from), ...pooled]];
    }
    case "move": {
      if (slots.length === 0) return [row, []];
      const slot = at(given.slot);
      row.moveTo(slot, given.position, ROTARY);
      const delta = given.position - slots[slot].position;
      const turned = slots[slot].parts.map(([keys, values], l) => [
        keys.map((value, i) => {
          const [pair, second] = [i % 2, i % 4 >= 2];
          const angle = delta * ROTARY[l].inverseFrequencies[pair];
          const partner = keys[second ? i - 2 : i + 2];
          return value * Math.cos(angle) + (second ? 1 : -1) * partner * Math.sin(angle);
        }),
        values,
      ]);
      const moved = { ...slots[slot], parts: turned, position: given.position };
      return [row, slots.map((old, i) => (i === slot ? moved : old))];
    }
    case "settle":
      row.settle();
      return [row, [...slots]];
    case "detach":
      row.detach();
      return [row, [...slots]];
    case "clone":
      return [row.clone(), [...slots]];
    case "rebuild":
      return [rebuilt(row), [...slots]];
    case "gather": {
      const other = new KvRow(SHAPE);
      other.append(freshRows(1, 3), 0, 0, [0, 1, 2], "text");
      new RowBatch().hold([other, row]);
      expect(row.store).toBe(other.store);
      return [row, [...slots]];
    }
  }
}

describe("a row", () => {
  test("holds what a plain list of slots would", () => {
    fc.assert(
      fc.property(fc.array(command, { minLength: 1, maxLength: 15 }), (commands) => {
        let row = new KvRow(SHAPE);
        let slots: Slot[] = [];
        for (const given of commands) {
          [row, slots] = perform(row, slots, given);
          expectSlots(row, slots);
        }
      }),
      { numRuns: 200 },
    );
  });

  test("leaves its neighbours in a shared store alone", () => {
    fc.assert(
      fc.property(fc.array(command, { minLength: 1, maxLength: 10 }), (commands) => {
        const neighbours = [5, 9].map((count) => {
          const row = new KvRow(SHAPE);
          const rows = freshRows(1, count);
          row.append(rows, 0, 0, [...Array.from({ length: count }).keys()], "text");
          return { row, slots: [...Array.from({ length: count }).keys()].map((i) => slotOf(rows, i, i, "text")) };
        });
        let row = new KvRow(SHAPE);
        let slots: Slot[] = [];
        new RowBatch().hold([neighbours[0].row, row, neighbours[1].row]);
        for (const given of commands) {
          [row, slots] = perform(row, slots, given);
          expectSlots(row, slots);
          for (const neighbour of neighbours) expectSlots(neighbour.row, neighbour.slots);
        }
      }),
      { numRuns: 100 },
    );
  });

  test("holds its own, whatever becomes of its clones", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(3), command), { minLength: 1, maxLength: 15 }), (commands) => {
        const first = new KvRow(SHAPE);
        const fresh = freshRows(1, 6);
        const positions = [...Array.from({ length: 6 }).keys()];
        first.append(fresh, 0, 0, positions, "text");
        const slots = positions.map((position) => slotOf(fresh, position, position, "text"));
        const family = [first, first.clone(), first.clone()].map((row) => ({ row, slots }));
        family.push({ row: family[1].row.clone(), slots });
        for (const [member, given] of commands) {
          const { row, slots: held } = family[member];
          const [next, nextSlots] = perform(row, held, given);
          family[member] = { row: next, slots: nextSlots };
          for (const each of family) expectSlots(each.row, each.slots);
        }
      }),
      { numRuns: 30 },
    );
  });

  test("shares its slots with its clones until one of them changes", () => {
    const row = new KvRow(SHAPE);
    row.append(freshRows(1, 3), 0, 0, [0, 1, 2], "text");
    const [read, written] = [row.clone(), row.clone()];
    written.append(freshRows(1, 1), 0, 0, [3], "text");
    expect(read.store).toBe(row.store);
    expect(written.store).not.toBe(row.store);
  });

  test("a clone is independent", () => {
    const row = new KvRow(SHAPE);
    row.append(freshRows(1, 3), 0, 0, [0, 1, 2], "text");
    const copy = row.clone();
    const before = copy.export();
    row.blend(0, 2, 0.5);
    row.setKind(1, "memory");
    row.truncate(2);
    expect(copy.export()).toEqual(before);
  });

  test("takes little more room than its slots, and gives it back", () => {
    const row = new KvRow(SHAPE);
    for (let length = 1; length <= 600; length++) {
      row.append(freshRows(1, 1), 0, 0, [length], "text");
      row.settle();
      expect(row.store.capacity).toBeGreaterThanOrEqual(length);
      expect(row.store.capacity).toBeLessThanOrEqual(length * 1.25 + 12);
    }
    row.truncate(2);
    row.settle();
    expect(row.store.capacity).toBe(8);
    row.truncate(0);
    row.settle();
    expect(row.store.capacity).toBe(0);
  });

  test("has room that depends on its length alone", () => {
    const [grown, cut] = [new KvRow(SHAPE), new KvRow(SHAPE)];
    for (let i = 0; i < 40; i++) grown.append(freshRows(1, 1), 0, 0, [i], "text");
    cut.append(freshRows(1, 300), 0, 0, [...Array.from({ length: 300 }).keys()], "text");
    cut.truncate(40);
    for (const row of [grown, cut]) row.settle();
    expect(cut.store.capacity).toBe(grown.store.capacity);
    expect(grown.clone().store.capacity).toBe(grown.store.capacity);
    expect(rebuilt(grown).store.capacity).toBe(grown.store.capacity);
  });
});

test("a slot takes keys and values of every layer and head", () => {
  expect(slotBytes(SHAPE)).toBe(2 * 2 * 2 * 4 * 4);
  const store = new KvStore(SHAPE, 3, 5);
  const bytes = [...store.keys, ...store.values].reduce((sum, { byteLength }) => sum + byteLength, 0);
  expect(bytes).toBe(3 * 5 * slotBytes(SHAPE));
});

test("a slice is a row of its own with some of the slots, out of a shared store too", () => {
  const rows = [new KvRow(SHAPE), new KvRow(SHAPE)];
  const lists: Slot[][] = rows.map(() => []);
  rows.forEach((row, index) => {
    const fresh = freshRows(1, 6);
    const positions = Array.from({ length: 6 }, (_, i) => 10 * index + i);
    row.append(fresh, 0, 0, positions, "text");
    lists[index] = positions.map((position, i) => slotOf(fresh, i, position, "text"));
  });
  new RowBatch().hold(rows);
  const part = rows[1].slice(2, 5);
  expectSlots(part, lists[1].slice(2, 5));
  part.truncate(0);
  expectSlots(rows[1], lists[1]);
});
