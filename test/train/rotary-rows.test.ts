/** @file The positions of a training batch as rows of a table. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { rotaryTable } from "#precis/models/rotary.js";
import type { Feeds } from "#precis/runtime/engine-session.js";
import { layoutEpisode, type LayoutMode } from "#precis/train/batches.js";
import { packLayouts } from "#precis/train/packing.js";
import { padLayouts, placeLayouts, type PaddedBatch } from "#precis/train/padded-batch.js";
import { rotaryCapacity, rotaryFeeds, rotaryNames } from "#precis/train/rotary-rows.js";
import { placeTeacher } from "#precis/train/teacher-batch.js";
import { expectError } from "../conformance/expect-error.js";
import { fc } from "../property.js";
import { IDS, layoutOf, MODES, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

const STREAM: LayoutMode = {
  ...IDS,
  method: "streaming",
  blockTokens: 1000,
  compTokens: 2,
  window: 8,
  compress: 3,
  memory: 4,
  sink: 1,
  release: "gradual",
};

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny[Symbol.asyncDispose]());

const NAMES = rotaryNames("student");

function feedsOf(positions: readonly number[], sizes: { batch: number; seq: number }): Feeds {
  return rotaryFeeds(tiny.base.config, Int32Array.from(positions), sizes, "student");
}

function rowsOf(feeds: Feeds): number[] {
  return Array.from(feeds[NAMES.rows].data as BigInt64Array, Number);
}

test("every token names the row of its position; repeated positions share one", () => {
  const positions = [0, 1, 2, 0, 1, 1, 3, 1];
  const feeds = feedsOf(positions, { batch: 2, seq: 4 });
  const rows = rowsOf(feeds);
  expect(feeds[NAMES.rows].dims).toEqual([2, 4]);
  expect(new Set(rows).size).toBe(4);
  const rotary = tiny.base.config.rotary.full;
  const pairs = rotary.inverseFrequencies.length;
  const { cos, sin } = rotaryTable(rotary, positions);
  for (const [name, each] of [
    [NAMES.cos("full"), cos],
    [NAMES.sin("full"), sin],
  ] as const) {
    const table = feeds[name].data as Float32Array;
    expect(feeds[name].dims).toEqual([rotaryCapacity({ seq: 4 }), pairs]);
    expect(rows.flatMap((row) => [...table.subarray(row * pairs, (row + 1) * pairs)])).toEqual([...each]);
  }
});

test("positions may lie anywhere, as long as they are not too many", async () => {
  const sizes = { batch: 2, seq: 3 };
  expect(rowsOf(feedsOf([1_000_000, 7, 7, 9, 1_000_000, 4], sizes))).toEqual([0, 1, 1, 2, 0, 3]);
  const many = (async () => feedsOf([0, 1, 2, 3, 4, 5], sizes))();
  await expectError(many, "INPUT_INVALID", /6 positions; the graph takes 4/);
});

describe("the table has a row for every position of a batch", () => {
  const modes: [string, LayoutMode][] = [
    ...Object.entries(MODES),
    ["streaming", STREAM],
    ["sentinel", { ...IDS, method: "sentinel", blockTokens: 40, ratios: [0.3, 0.7], longest: 4 }],
  ];
  const ids = fc.array(fc.integer({ min: 2, max: 319 }), { minLength: 1, maxLength: 12 });
  const episodes = fc.array(
    fc.record({ steps: fc.array(ids, { minLength: 1, maxLength: 4 }), input: ids, target: ids }),
    {
      minLength: 1,
      maxLength: 4,
    },
  );

  test.each(modes)("%s", (_name, mode) => {
    fc.assert(
      fc.property(episodes, fc.nat(3), (samples, room) => {
        const layouts = samples.map((sample, index) =>
          layoutEpisode({ id: `e${index}`, source: "test", setting: "conversation", ...sample }, mode, "all"),
        );
        const seq = Math.max(...layouts.map((layout) => layout.seq)) + room;
        const rows = layouts.map((layout) => [{ layout, start: room }]);
        const batches: PaddedBatch[] = [placeLayouts(rows, seq), padLayouts(layouts)];
        for (const batch of batches) {
          expect(new Set(batch.positionIds).size).toBeLessThanOrEqual(rotaryCapacity(batch));
        }
        expect(new Set(placeTeacher(rows, seq).positionIds).size).toBeLessThanOrEqual(rotaryCapacity({ seq }));
      }),
      { numRuns: 30 },
    );
  });
});

test("a sample has the same loss in a row of its own and behind another one", async () => {
  const mode = MODES["concat, recursive"];
  const [first, second] = [0, 1].map((number) =>
    layoutOf(
      {
        chunks: [
          [1, 20 + number, 30],
          [40, 41],
        ],
        input: [50, 51],
        target: [60 + number, 61],
      },
      mode,
    ),
  );
  const losses: number[] = [];
  for (const [batch, seq] of [
    [2, 20],
    [1, 40],
  ] as const) {
    const passes = await tiny.passes(specFor(mode, batch, seq));
    const { placed } = packLayouts([first, second], batch, seq);
    losses.push((await passes.run(placeLayouts(placed, seq))).loss);
    await passes.dispose();
  }
  expect(losses[1]).toBeCloseTo(losses[0], 5);
});
