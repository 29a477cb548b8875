/** @file Attention paid to a memory, against a decoder in plain loops, and where its slots come from. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Memory, MemoryAttention } from "#precis/index.js";
import { createFixture, TRIED_METHODS, type Fixture } from "../conformance/fixtures.js";
import { expectError } from "../conformance/expect-error.js";
import { decode, type LayerCache } from "../reference/decoder.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 5 });
});
afterAll(() => fixture[Symbol.asyncDispose]());

const tokens = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);
const total = (shares: Float32Array): number => shares.reduce((sum, share) => sum + share, 0);

/** The rows of a memory as the reference takes a past. */
async function pastOf(memory: Memory): Promise<LayerCache[]> {
  const { keys, values } = await memory.rows();
  return keys.map((rows, layer) => ({
    keys: Float64Array.from(rows),
    values: Float64Array.from(values[layer] as Float32Array),
  }));
}

/** Means over heads and the rows from `first` on, by layer and slot, of what the reference attends to. */
async function wanted(memory: Memory, ids: readonly number[], first: number, gate: number): Promise<number[][]> {
  const { slots, position } = await memory.stats();
  const { attention } = decode(fixture.files, {
    inputIds: ids,
    positionIds: ids.map((_, i) => position + i),
    gate: ids.map(() => gate),
    past: await pastOf(memory),
    attend: Uint8Array.from({ length: ids.length * (slots + ids.length) }, (_, at) => {
      const [row, column] = [Math.floor(at / (slots + ids.length)), at % (slots + ids.length)];
      return column <= slots + row ? 1 : 0;
    }),
  });
  const heads = fixture.model.info.queryHeads;
  const width = slots + ids.length;
  return attention.map((weights) =>
    tokens(0, slots).map((slot) => {
      let sum = 0;
      for (let head = 0; head < heads; head++) {
        for (let row = first; row < ids.length; row++) sum += weights[(head * ids.length + row) * width + slot];
      }
      return sum / heads / (ids.length - first);
    }),
  );
}

function expectShares({ layers, own }: MemoryAttention, shares: readonly number[][]): void {
  expect(layers.length).toBe(shares.length);
  shares.forEach((of, layer) => {
    expect(layers[layer].length).toBe(of.length);
    of.forEach((share, slot) => expect(layers[layer][slot]).toBeCloseTo(share, 5));
    expect(own[layer]).toBeCloseTo(1 - total(layers[layer]), 5);
  });
}

describe("attention", () => {
  test.each(["full", "ccm-concat", "ccm-merge", "compressive"])(
    "that an input pays to %s is what a plain decoder computes",
    async (method) => {
      const memory = await fixture.memory({ method });
      await memory.append(tokens(10, 7));
      await memory.append(tokens(40, 5));
      const before = await memory.stats();
      const found = await memory.attention(tokens(60, 6));
      expect(found.tokens).toBe(6);
      expectShares(found, await wanted(memory, tokens(60, 6), 0, 0));
      expect(await memory.stats()).toEqual(before);
    },
  );

  test("that an answer pays is counted from the token that chose its first one", async () => {
    const memory = await fixture.memory({ method: "ccm-concat" });
    await memory.append(tokens(10, 9));
    const [input, answer] = [tokens(60, 4), [9, 8, 7]];
    const found = await memory.attention(input, { answer });
    expect(found.tokens).toBe(3);
    expectShares(found, await wanted(memory, [...input, 9, 8], 3, 0));
  });

  test("follows slots through evictions: what has left the window gets nothing", async () => {
    const memory = await fixture.memory({ method: "sliding-window", options: { window: 8 } });
    await memory.append(tokens(10, 8));
    const { layers, slots } = await memory.attention(tokens(60, 40), { answer: tokens(100, 5) });
    expect(slots.length).toBe(8);
    for (const shares of layers) expect([...shares]).toEqual(tokens(0, 8).map(() => 0));
    const near = await memory.attention([60]);
    // The token sees itself and seven of the eight.
    for (const shares of near.layers) {
      expect(shares[0]).toBe(0);
      for (const share of shares.slice(1)) expect(share).toBeGreaterThan(0);
    }
  });

  test.each(TRIED_METHODS)("adds up to 1 with $label", async (tried) => {
    const { label: _, slots: __, ...options } = tried;
    const memory = await fixture.memory(options);
    for (const step of [tokens(10, 9), tokens(30, 14), tokens(60, 5)]) await memory.append(step);
    const { layers, own, slots } = await memory.attention(tokens(70, 9), { answer: tokens(90, 6) });
    expect(slots.length).toBe((await memory.stats()).slots);
    layers.forEach((shares, layer) => {
      expect(shares.length).toBe(slots.length);
      expect(total(shares) + own[layer]).toBeCloseTo(1, 5);
    });
  });

  test("of nothing is refused", async () => {
    const memory = await fixture.memory({ method: "full" });
    await expectError(memory.attention([5, 6], { answer: [] }), "INPUT_INVALID");
  });
});

describe("slots", () => {
  test("of text are a token each, and tell the step that read it", async () => {
    const memory = await fixture.memory({ method: "full" });
    await memory.append(tokens(10, 3));
    await memory.append(tokens(20, 2));
    const found = (await memory.slots()).map(({ kind, position, origin }) => [kind, position, origin]);
    const at = (step: number, token: number): object => ({
      firstStep: step,
      lastStep: step,
      firstToken: token,
      endToken: token + 1,
    });
    expect(found).toEqual([
      ["text", 0, at(1, 0)],
      ["text", 1, at(1, 1)],
      ["text", 2, at(1, 2)],
      ["text", 3, at(2, 3)],
      ["text", 4, at(2, 4)],
    ]);
  });

  test("of ccm-concat stand for the text of one step each, and those of ccm-merge for all of it", async () => {
    const [concat, merge] = [
      await fixture.memory({ method: "ccm-concat" }),
      await fixture.memory({ method: "ccm-merge" }),
    ];
    for (const memory of [concat, merge]) for (const size of [3, 5]) await memory.append(tokens(10, size));
    const first = { firstStep: 1, lastStep: 1, firstToken: 0, endToken: 3 };
    const second = { firstStep: 2, lastStep: 2, firstToken: 3, endToken: 8 };
    expect((await concat.slots()).map(({ origin }) => origin)).toEqual([first, first, second, second]);
    const both = { firstStep: 1, lastStep: 2, firstToken: 0, endToken: 8 };
    expect((await merge.slots()).map(({ origin }) => origin)).toEqual([both, both]);
  });

  test("count text once where a method reads it again", async () => {
    const memory = await fixture.memory({ method: "ccm-concat", options: { recursive: false } });
    await memory.append(tokens(10, 3));
    await memory.answer(tokens(20, 4), { maxTokens: 3, ignoreEos: true });
    const { tokensSeen } = await memory.stats();
    const origin = { firstStep: 2, lastStep: 2, firstToken: 3, endToken: tokensSeen };
    expect((await memory.slots()).slice(2).map((slot) => slot.origin)).toEqual([origin, origin]);
  });

  test.each(TRIED_METHODS)("survive snapshots and lie within what was seen, with $label", async (tried) => {
    const { label: _, slots: __, ...options } = tried;
    const memory = await fixture.memory(options);
    for (const step of [tokens(10, 9), tokens(30, 14), tokens(60, 5)]) await memory.append(step);
    const { tokensSeen } = await memory.stats();
    const slots = await memory.slots();
    for (const { origin } of slots) {
      expect(origin?.firstStep).toBeGreaterThanOrEqual(1);
      expect(origin?.lastStep).toBeLessThanOrEqual(3);
      expect(origin?.firstToken).toBeGreaterThanOrEqual(0);
      expect(origin?.endToken).toBeLessThanOrEqual(tokensSeen);
      expect(origin!.endToken).toBeGreaterThan(origin!.firstToken);
    }
    const restored = await fixture.model.restoreMemory(await memory.snapshot(), fixture.adaptersOf(options));
    expect(await restored.slots()).toEqual(slots);
    expect(await (await memory.fork()).slots()).toEqual(slots);
  });
});
