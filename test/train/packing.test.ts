/** @file Several samples in one row: each is trained as if it had the row to itself. */

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { builtBatches, packedBatches, type BatchOptions } from "#precis/train/batches.js";
import { countLabels, estimateLabelBudget, packLayouts } from "#precis/train/packing.js";
import { placeLayouts, type PaddedBatch } from "#precis/train/padded-batch.js";
import { IGNORED_LABEL, type ParallelLayout } from "#precis/train/parallel-layout.js";
import { batchLabels } from "#precis/train/training-batch.js";
import type { Episode } from "#precis/data/episode.js";
import {
  IDS,
  layoutOf,
  MODES,
  relativeError,
  specFor,
  tinyTraining,
  type PlainSample,
  type TinyTraining,
} from "./tiny-training.js";
import { dense } from "../reference/dense-batch.js";

const ROW = 96;
const LOSS_TOLERANCE = 2e-5;
const GRADIENT_TOLERANCE = 2e-4;

const token = fc.integer({ min: 2, max: 319 });
const text = (maxLength: number) => fc.array(token, { minLength: 1, maxLength });
const sample = fc
  .record({ chunks: fc.array(text(4), { maxLength: 3 }), input: text(3), target: text(3) })
  .map((drawn): PlainSample => ({
    ...drawn,
    chunks: drawn.chunks.map((chunk, i) => (i === 0 ? [1, ...chunk] : chunk)),
  }));
const samples = fc.array(sample, { minLength: 2, maxLength: 3 });

/** One after another in one row. */
function pack(layouts: readonly ParallelLayout[]): PaddedBatch {
  const { placed, left } = packLayouts(layouts, 1, ROW);
  expect(left).toEqual([]);
  return placeLayouts(placed, ROW);
}

/** The batch with the labels of one of its samples only. */
function onlyLabelsOf(batch: PaddedBatch, layouts: readonly ParallelLayout[], index: number): PaddedBatch {
  const start = layouts.slice(0, index).reduce((sum, { seq }) => sum + seq, 0);
  const end = start + layouts[index].seq;
  return { ...batch, labels: batch.labels.map((label, at) => (at >= start && at < end ? label : IGNORED_LABEL)) };
}

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny[Symbol.asyncDispose]());

describe.each(Object.keys(MODES))("%s", (name) => {
  const mode = MODES[name];
  let passes: Awaited<ReturnType<TinyTraining["passes"]>>;
  beforeAll(async () => {
    passes = await tiny.passes(specFor(mode, 1, ROW));
  });
  afterAll(() => passes.dispose());

  test("loss and gradient of a packed row are those of its samples, weighted by their labels", async () => {
    await fc.assert(
      fc.asyncProperty(samples, async (drawn) => {
        const layouts = drawn.map((one) => layoutOf(one, mode));
        const packed = await passes.run(pack(layouts));
        let loss = 0;
        const gradient = new Float32Array(packed.gradient.length);
        const total = drawn.reduce((sum, { target }) => sum + target.length, 0);
        for (const [index, layout] of layouts.entries()) {
          const alone = await passes.run(pack([layout]));
          const share = drawn[index].target.length / total;
          loss += share * alone.loss;
          alone.gradient.forEach((value, i) => (gradient[i] += share * value));
        }
        expect(Math.abs(packed.loss - loss)).toBeLessThan(LOSS_TOLERANCE);
        expect(relativeError(packed.gradient, gradient)).toBeLessThan(GRADIENT_TOLERANCE);
      }),
      { numRuns: 12 },
    );
  });

  test("other samples of the row leave no trace in a sample's loss and gradient", async () => {
    await fc.assert(
      fc.asyncProperty(samples, fc.nat(), async (drawn, pick) => {
        const index = pick % drawn.length;
        const changed = drawn.map((one, i): PlainSample => {
          // Sinks stay, since they decide where the tokens of a row lie.
          const replace = (id: number): number => (id === IDS.bosId ? id : 2 + ((id * 7) % 318));
          const other = (ids: number[]): number[] => (i === index ? ids : ids.map(replace));
          return { chunks: one.chunks.map(other), input: other(one.input), target: other(one.target) };
        });
        const [before, after] = [drawn, changed].map((all) => all.map((one) => layoutOf(one, mode)));
        const first = await passes.run(onlyLabelsOf(pack(before), before, index));
        const second = await passes.run(onlyLabelsOf(pack(after), after, index));
        // Kernels may add up in another order; a leak would be far larger.
        expect(Math.abs(second.loss - first.loss)).toBeLessThanOrEqual(1e-6 * Math.abs(first.loss));
        expect(relativeError(second.gradient, first.gradient)).toBeLessThan(1e-6);
      }),
      { numRuns: 10 },
    );
  });
});

const mode = MODES["concat, recursive"];

test("positions start again with every sample of a row", () => {
  const [first, second] = [
    layoutOf({ chunks: [[1, 5, 6]], input: [7], target: [8, 9] }, mode),
    layoutOf({ chunks: [[1, 5]], input: [7], target: [8] }, mode),
  ];
  const { positionIds, attend, seq } = dense(pack([first, second]));
  expect([...positionIds.subarray(0, first.seq + second.seq)]).toEqual([0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 3, 2, 3]);
  for (let row = 0; row < seq; row++) {
    for (let column = 0; column < seq; column++) {
      const apart = row < first.seq !== column < first.seq;
      if (apart) expect(attend[row * seq + column]).toBe(0);
    }
  }
});

test("labels are predicted by the token before, and never across samples", () => {
  // A sample without context and input labels its very first token, which nothing in the row may predict.
  const layouts = [
    layoutOf({ chunks: [], input: [5], target: [6, 7] }, mode),
    layoutOf({ chunks: [[1, 4]], input: [3], target: [9] }, mode),
  ];
  const { rows, ids } = batchLabels(pack(layouts));
  expect(rows).toEqual([0, 1, 7]);
  expect(ids).toEqual([6, 7, 9]);
});

/** An episode with these parts. */
function episode(id: string, steps: number[][], target: number[]): Episode {
  return { id, source: "test", setting: "conversation", steps, input: [3], target };
}

async function* stream(episodes: readonly Episode[]): AsyncGenerator<Episode, void, void> {
  yield* episodes;
}

test("every episode of a finite stream is in exactly one batch, but for those longer than a row", async () => {
  const long = episode("long", [Array.from({ length: 80 }, () => 4)], [5]);
  const short = Array.from({ length: 9 }, (_, i) => episode(`e${i}`, [[1, 20 + i]], [100 + i]));
  const seen: number[] = [];
  const options = { mode, rows: 2, rowLength: 24, labels: "answer" as const };
  for await (const planned of packedBatches(stream([...short.slice(0, 4), long, ...short.slice(4)]), options)) {
    const batch = planned.build();
    expect([batch.batch, batch.seq]).toEqual([2, 24]);
    seen.push(...batchLabels(batch).ids);
  }
  expect(seen.sort((a, b) => a - b)).toEqual(short.map((_, i) => 100 + i));
});

/** Episodes with answers of 1 to 6 labels, each label of its own. */
const manyAnswers = Array.from({ length: 40 }, (_, i) => {
  const target = Array.from({ length: 1 + ((i * 5) % 6) }, (_unused, k) => 20 + 6 * i + k);
  return episode(`e${i}`, [[1, 10 + (i % 7)]], target);
});

async function labelsOf(options: BatchOptions, skip = 0, most = Infinity): Promise<number[][]> {
  const batches: number[][] = [];
  for await (const batch of builtBatches(stream(manyAnswers), options, skip)) {
    batches.push(batchLabels(batch).ids);
    if (batches.length === most) break;
  }
  return batches;
}

test("a batch is closed when its answers would exceed the label budget; no label is lost", async () => {
  const labelBudget = { most: 9, surplus: "close", seed: 1 } as const;
  const batches = await labelsOf({ mode, rows: 2, rowLength: 48, labels: "answer", labelBudget });
  expect(Math.max(...batches.map(({ length }) => length))).toBeLessThanOrEqual(9);
  const all = manyAnswers.flatMap(({ target }) => target);
  expect(batches.flat().sort((a, b) => a - b)).toEqual([...all].sort((a, b) => a - b));
});

test("an answer longer than the whole budget keeps a part of its labels", async () => {
  const labelBudget = { most: 3, surplus: "close", seed: 1 } as const;
  const batches = await labelsOf({ mode, rows: 1, rowLength: 48, labels: "answer", labelBudget });
  expect(Math.max(...batches.map(({ length }) => length))).toBe(3);
  expect(batches.flat()).toHaveLength(manyAnswers.reduce((sum, { target }) => sum + Math.min(3, target.length), 0));
});

test("labels of all text beyond the budget are drawn, evenly, and the same by a resumed run", async () => {
  const whole = { mode, rows: 2, rowLength: 48, labels: "all" } as const;
  const options = { ...whole, labelBudget: { most: 8, surplus: "drop", seed: 1 } } as const;
  const [everything, kept] = [await labelsOf(whole), await labelsOf(options)];
  expect(kept).toHaveLength(everything.length);
  kept.forEach((ids, index) => {
    expect(ids).toHaveLength(Math.min(8, everything[index].length));
    expect(everything[index]).toEqual(expect.arrayContaining(ids));
  });
  expect(await labelsOf(options, 2)).toEqual(kept.slice(2));
  const otherSeed = { ...options, labelBudget: { ...options.labelBudget, seed: 2 } };
  expect(await labelsOf(otherSeed)).not.toEqual(kept);
});

test("the estimated budget holds the labels of nearly every batch, and is far below the number of places", async () => {
  const layouts = manyAnswers.map(({ steps, input, target }) =>
    layoutOf({ chunks: [...steps] as number[][], input: [...input], target: [...target] }, mode),
  );
  const most = estimateLabelBudget(layouts, 2, 96);
  const batches = await labelsOf({ mode, rows: 2, rowLength: 96, labels: "answer" });
  for (const ids of batches) expect(ids.length).toBeLessThanOrEqual(most);
  expect(most % 64).toBe(0);
  expect(most).toBeLessThan(2 * 96);
  expect(most).toBeGreaterThanOrEqual(Math.max(...layouts.map(countLabels)));
  expect(estimateLabelBudget([], 8, 96)).toBe(8 * 96);
});

test("all text after the first step is labelled on request, but for what nothing predicts", async () => {
  const options = { mode, rows: 1, rowLength: 32, labels: "all" as const };
  const steps = [
    [1, 10],
    [11, 12, 13],
  ];
  for await (const planned of packedBatches(stream([episode("e", steps, [15, 16])]), options)) {
    expect(batchLabels(planned.build()).ids).toEqual([12, 13, 15, 16]);
  }
  expect.assertions(1);
});
