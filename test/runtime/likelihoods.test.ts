/** @file Likelihoods of many continuations at once are those of reading each by itself, under every method. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Memory } from "#precis/index.js";
import { logProbability } from "#precis/runtime/sampler.js";
import { createFixture, textIds, TRIED_METHODS, type Fixture } from "../conformance/fixtures.js";

let fixture: Fixture;

beforeAll(async () => {
  fixture = await createFixture();
});

afterAll(() => fixture[Symbol.asyncDispose]());

const ASKED = [
  { input: textIds(3, 1), continuations: [[40], textIds(4, 2), textIds(2, 3)] },
  { input: [77], continuations: [textIds(3, 4)] },
  // Longer than the windows, so that methods evict and compress meanwhile.
  { input: textIds(20, 5), continuations: [[41], [42], textIds(9, 6)] },
  // More than one tree.
  { input: textIds(30, 7), continuations: Array.from({ length: 30 }, (_, index) => textIds(12, index)) },
];

async function direct(memory: Memory, input: readonly number[], continuation: readonly number[]): Promise<number> {
  const { logits, vocabSize } = await memory.forward([...input, ...continuation.slice(0, -1)]);
  const row = (index: number): Float32Array => logits.subarray(index * vocabSize, (index + 1) * vocabSize);
  return continuation.reduce((sum, id, place) => sum + logProbability(row(input.length - 1 + place), id), 0);
}

describe.each(TRIED_METHODS)("$label", (choice) => {
  test("likelihoods are those of single passes, and leave the memory as it was", async () => {
    const { label: _, slots: __, ...options } = choice;
    const memory = await fixture.memory(options);
    for (const step of [1, 2, 3]) await memory.append(textIds(7, 10 + step));
    const before = await memory.stats();
    const found = await memory.likelihoods(ASKED);
    for (const [question, { input, continuations }] of ASKED.entries()) {
      for (const [index, ids] of continuations.entries()) {
        expect(found[question].logProbabilities[index]).toBeCloseTo(await direct(memory, input, ids), 3);
      }
    }
    expect(await memory.stats()).toEqual(before);
    await memory.dispose();
  });
});

test("the peak is what the widest run needed", async () => {
  const peaks = async (method: string, options: Record<string, number>): Promise<number[]> => {
    const memory = await fixture.memory({ method, options });
    await memory.append(textIds(30));
    const [answer] = await memory.likelihoods([{ input: textIds(5), continuations: [textIds(3)] }]);
    return [await memory.peakSlots(), answer.peakSlots];
  };
  const comp = fixture.adapter.compTokens;
  expect(await peaks("full", {})).toEqual([30, 37]);
  expect(await peaks("none", {})).toEqual([0, 7]);
  expect(await peaks("sliding-window", { window: 8 })).toEqual([8, 8]);
  expect(await peaks("streaming", { window: 12, sink: 2, evict: 4 })).toEqual([13, 13]);
  expect(await peaks("ccm-concat", {})).toEqual([30 + comp, 30 + comp]);
  expect(await peaks("gist", {})).toEqual([30 + comp, 30 + comp]);
  expect(await peaks("streaming-ccm", { window: 14, compress: 5, memory: 4 })).toEqual([15 + comp, 15 + comp]);
});

test("nonsense is refused", async () => {
  const memory = await fixture.memory({ method: "full" });
  for (const asked of [
    { input: [], continuations: [[1]] },
    { input: [1], continuations: [[]] },
    { input: [1], continuations: [[100_000]] },
  ]) {
    await expect(memory.likelihoods([asked])).rejects.toMatchObject({ code: "INPUT_INVALID" });
  }
});
