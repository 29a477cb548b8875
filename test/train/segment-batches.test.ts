/** @file Episodes as batches of segments: none lost but those that do not fit, the same order at every call. */

import { expect, test } from "vitest";

import type { Episode } from "#precis/data/episode.js";
import type { LabelScope } from "#precis/train/batches.js";
import { IGNORED_LABEL } from "#precis/train/parallel-layout.js";
import { segmentedBatches, segmentEpisode, type SegmentBatchOptions } from "#precis/train/segment-batches.js";
import type { SegmentedBatch } from "#precis/train/segments.js";
import { textIds } from "../conformance/fixtures.js";
import { IDS } from "./tiny-training.js";

const { vocabSize, padId } = IDS;
const SHAPE = { rows: 2, segmentLength: 8, compTokens: 1, accumulate: false, maxSteps: 6, vocabSize, padId };

function options(labels: LabelScope = "answer"): SegmentBatchOptions {
  return { shape: SHAPE, labels, seed: 7 };
}

/** An episode of `steps` steps that can be told by its target. */
function episode(number: number, steps: number, length = 3): Episode {
  return {
    id: `e${number}`,
    source: "test",
    setting: "conversation",
    steps: Array.from({ length: steps }, (_, step) => textIds(length, step)),
    input: [3, 4],
    target: [100 + number],
  };
}

async function* stream(episodes: readonly Episode[]): AsyncGenerator<Episode, void, void> {
  yield* episodes;
}

async function collect(episodes: readonly Episode[]): Promise<SegmentedBatch[]> {
  const batches: SegmentedBatch[] = [];
  for await (const planned of segmentedBatches(stream(episodes), options())) batches.push(planned.build());
  return batches;
}

/** The targets of a batch, and its number of segments. */
function describeBatch({ segments }: SegmentedBatch): { targets: number[]; turns: number } {
  const labels = segments.flatMap(({ tokens }) => [...tokens.labels]);
  return { targets: labels.filter((label) => label !== IGNORED_LABEL), turns: segments.length };
}

test("every episode that fits is in one batch, beside others of about as many steps", async () => {
  // Three windows of sixteen, the last one partly filled; one too long a step, one with too many steps.
  const episodes = Array.from({ length: 37 }, (_, i) => episode(i, 1 + ((i * 5) % 6)));
  const unfit = [episode(50, 1, 9), episode(51, 7)];
  const batches = (await collect([...unfit, ...episodes])).map(describeBatch);
  const targets = batches.flatMap((batch) => batch.targets);
  expect(targets.toSorted((a, b) => a - b)).toEqual(episodes.map(({ target }) => target[0]));
  expect(batches).toHaveLength(8 + 8 + 3);
  const wasted = batches.slice(0, 8).filter(({ targets: [a, b], turns }) => {
    const steps = [a, b].map((id) => 1 + (((id - 100) * 5) % 6));
    return Math.min(...steps) + 1 < turns - 1;
  });
  expect(wasted).toEqual([]);
  expect((await collect([...unfit, ...episodes])).map(describeBatch)).toEqual(batches);
});

test("labels are those of any other training, but never a segment's first token", () => {
  const answered = { ...episode(1, 3), answers: [undefined, { start: 1, end: 3 }, { start: 0, end: 2 }] };
  const labelled = (labels: LabelScope): number[] =>
    segmentEpisode(answered, options(labels)).map(
      (segment) => Array.from(segment.labels).filter((label) => label !== IGNORED_LABEL).length,
    );
  expect(labelled("answer")).toEqual([0, 0, 0, 1]);
  expect(labelled("answers")).toEqual([0, 2, 1, 1]);
  expect(labelled("all")).toEqual([0, 2, 2, 2]);
});

test("no episodes, no batches", async () => {
  expect(await collect([])).toEqual([]);
});
