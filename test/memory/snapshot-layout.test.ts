/** @file Snapshots in pieces: runs of rows that stay the same bytes while a memory grows. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { splitSnapshot, type Memory } from "#precis/index.js";
import { SNAPSHOT_PRECISIONS } from "#precis/codec/row-precision.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";

/** Tokens that are appended, and how many runs of 128 are complete then. */
const GROWTH = [
  [100, 0],
  [28, 1],
  [1, 1],
  [300, 3],
] as const;

let fixture: Fixture;
let memory: Memory;
beforeAll(async () => {
  fixture = await createFixture({ seed: 61 });
  memory = await fixture.memory({ method: "full" });
});
afterAll(() => fixture[Symbol.asyncDispose]());

test("together they are the snapshot, and a run is the same piece as long as its rows are", async () => {
  const earlier = new Map<string, Buffer[]>();
  for (const [tokens, complete] of GROWTH) {
    await memory.append(textIds(tokens));
    for (const precision of SNAPSHOT_PRECISIONS) {
      const bytes = await memory.snapshot({ precision });
      const { head, runs } = splitSnapshot(bytes);
      expect(Buffer.concat([head, ...runs]).equals(bytes)).toBe(true);
      expect(runs).toHaveLength(complete);
      for (const [index, run] of (earlier.get(precision) ?? []).entries()) expect(run.equals(runs[index]!)).toBe(true);
      earlier.set(
        precision,
        runs.map((run) => Buffer.from(run)),
      );
    }
  }
});

test("are the same after a restore, where nothing is lost", async () => {
  const bytes = await memory.snapshot();
  const restored = await fixture.model.restoreMemory(bytes);
  expect(Buffer.from(await restored.snapshot()).equals(bytes)).toBe(true);
  await restored.append(textIds(200));
  const { runs } = splitSnapshot(await restored.snapshot());
  const { runs: before } = splitSnapshot(bytes);
  expect(runs.length).toBeGreaterThan(before.length);
  expect(before.every((run, index) => Buffer.from(run).equals(runs[index]!))).toBe(true);
});

test("what is no snapshot is refused", () => {
  expect(() => splitSnapshot(new Uint8Array(100))).toThrow(/does not begin like one/);
});
