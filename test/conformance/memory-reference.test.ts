/** @file Memories against float64 references, for any text cut into any steps. */

import { join } from "node:path";

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { CreateMemoryOptions, Memory } from "#precis/index.js";
import { difference } from "../golden/compare.js";
import { runOnline } from "../reference/online.js";
import { runRecurrent } from "../reference/recurrent.js";
import { writeRandomAdapter, type ReferenceAdapter } from "../reference/random-model.js";
import { createFixture, type Fixture } from "./fixtures.js";
import { logitsInPieces } from "./pieces.js";
import { runSlidingWindow, StreamReference } from "./stream-reference.js";

const TOLERANCE = 2e-4;
const VOCAB = 320;
let fixture: Fixture;
/** Adapters of 1, 2 and 3 COMP tokens. */
let adapters: ReferenceAdapter[];
beforeAll(async () => {
  fixture = await createFixture({ seed: 31, layers: 3 });
  adapters = [1, 2, 3].map((compTokens) =>
    writeRandomAdapter(join(fixture.scratch, `comp${compTokens}`), { ...fixture.files.options, compTokens }),
  );
});
afterAll(() => fixture[Symbol.asyncDispose]());

const id = fc.integer({ min: 2, max: VOCAB - 1 });
const text = (maxLength: number): fc.Arbitrary<number[]> => fc.array(id, { minLength: 1, maxLength });
const pieces = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 12 });

describe("compressed memories equal the float64 reference", () => {
  const sample = fc.record({
    chunks: fc.array(text(8), { minLength: 1, maxLength: 5 }),
    input: text(6),
    adapter: fc.nat(2),
  });

  test.each([
    { name: "ccm-concat", method: "concat" },
    { name: "ccm-merge", method: "merge" },
    { name: "ccm-merge with a moving average", method: "merge", decay: 0.3 },
    { name: "gist", method: "gist" },
    { name: "compressive", method: "compressive" },
  ] as const)("$name", async ({ name, method, ...given }) => {
    const decay = "decay" in given ? given.decay : undefined;
    const modes = fc.record({ recursive: fc.boolean(), sink: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(sample, modes, async ({ chunks, input, adapter: index }, { recursive, sink }) => {
        const adapter = adapters[index];
        const { compTokens } = adapter;
        const isGist = method === "gist";
        const mode = {
          method,
          recursive,
          compTokens,
          sink: sink && !isGist,
          decay,
          vocabSize: VOCAB,
          padId: 0,
          bosId: 1,
        };
        const steps = [[1, ...chunks[0]], ...chunks.slice(1)];
        const expected = runOnline(fixture.files, adapter, { chunks: steps, input }, mode);
        const average = decay === undefined ? {} : { average: "ema", decay };
        const memory = await fixture.model.createMemory({
          method: name.split(" ")[0],
          options: isGist
            ? {}
            : { recursive, sink: sink ? 1 : 0, ...average, ...(method === "compressive" ? { slots: compTokens } : {}) },
          adapter: adapter.directory,
        });
        for (const step of steps) await memory.append(step);
        const held = await memory.rows();
        expected.memories.at(-1)?.forEach(({ keys, values }, layer) => {
          expect(difference(held.keys[layer], keys)).toBeLessThan(TOLERANCE);
          expect(difference(held.values[layer], values)).toBeLessThan(TOLERANCE);
        });
        const { logits } = await memory.forward(input);
        expect(difference(logits, expected.logits)).toBeLessThan(TOLERANCE);
        await memory.dispose();
      }),
      { numRuns: 30 },
    );
  });

  test("an answered input is compressed as if it had been appended", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(text(6), { minLength: 1, maxLength: 3 }),
        fc.constantFrom("ccm-concat", "ccm-merge", "gist", "compressive"),
        fc.boolean(),
        async (inputs, method, recursive) => {
          const options = method === "gist" ? {} : { recursive };
          const make = (): Promise<Memory> => fixture.memory({ method, options });
          const [answering, appending] = [await make(), await make()];
          for (const input of inputs) {
            const { tokenIds } = await answering.answer(input, { maxTokens: 3, ignoreEos: true });
            await appending.append([...input, ...tokenIds]);
          }
          expect(await answering.stats()).toEqual(await appending.stats());
          const [got, expected] = [await answering.rows(), await appending.rows()];
          got.keys.forEach((keys, layer) => {
            expect(difference(keys, expected.keys[layer])).toBeLessThan(TOLERANCE);
            expect(difference(got.values[layer], expected.values[layer])).toBeLessThan(TOLERANCE);
          });
        },
      ),
      { numRuns: 20 },
    );
  });
});

describe("recurrent summaries equal the float64 reference", () => {
  const sample = fc.record({ steps: fc.array(text(8), { minLength: 1, maxLength: 4 }), input: text(6) });
  // Each step feeds float32's rounding back through all layers of a random model; the other method would differ by 3 or more.
  const tolerance = 20 * TOLERANCE;

  test.each(["autocompressor", "rmt"])("%s", async (method) => {
    await fc.assert(
      fc.asyncProperty(sample, async ({ steps, input }) => {
        const logits = runRecurrent(fixture.files, fixture.recurrent, steps, input, method === "autocompressor");
        const memory = await fixture.memory({ method });
        for (const step of steps) await memory.append(step);
        expect(difference((await memory.forward(input)).logits, logits)).toBeLessThan(tolerance);
        expect((await memory.stats()).slots).toBe(method === "rmt" ? 2 : 2 * steps.length);
        await memory.dispose();
      }),
      { numRuns: 20 },
    );
  });

  test("an answered input is summarised as if it had been appended", async () => {
    for (const method of ["autocompressor", "rmt"]) {
      const [answering, appending] = [await fixture.memory({ method }), await fixture.memory({ method })];
      for (const input of [
        [20, 30, 40],
        [50, 60],
      ]) {
        const { tokenIds } = await answering.answer(input, { maxTokens: 3, ignoreEos: true });
        await appending.append([...input, ...tokenIds]);
      }
      const [got, expected] = [await answering.rows(), await appending.rows()];
      got.keys.forEach((keys, layer) => expect(difference(keys, expected.keys[layer])).toBeLessThan(TOLERANCE));
    }
  });
});

describe("streams equal the float64 reference token by token", () => {
  test("sliding-window", async () => {
    await fc.assert(
      fc.asyncProperty(text(40), pieces, fc.integer({ min: 1, max: 12 }), async (ids, lengths, window) => {
        const memory = await fixture.memory({ method: "sliding-window", options: { window } });
        const logits = await logitsInPieces(memory, ids, lengths);
        expect(difference(logits, runSlidingWindow(fixture.files, ids, window))).toBeLessThan(TOLERANCE);
        expect((await memory.stats()).slots).toBe(Math.min(window, ids.length));
      }),
      { numRuns: 25 },
    );
  });

  test("streaming", async () => {
    const options = fc.record({
      window: fc.integer({ min: 8, max: 16 }),
      sink: fc.nat(3),
      evict: fc.integer({ min: 1, max: 5 }),
    });
    await fc.assert(
      fc.asyncProperty(text(50), pieces, options, async (ids, lengths, { window, sink, evict }) => {
        await check({ method: "streaming", options: { window, sink, evict } }, ids, lengths, {
          window,
          sink,
          leave: evict,
        });
      }),
      { numRuns: 25 },
    );
  });

  test.each(["concat", "merge"])("streaming-ccm, %s", async (update) => {
    const options = fc.record({
      window: fc.integer({ min: 14, max: 20 }),
      sink: fc.nat(2),
      compress: fc.integer({ min: 4, max: 6 }),
      groups: fc.integer({ min: 1, max: 3 }),
    });
    await fc.assert(
      fc.asyncProperty(text(60), pieces, options, async (ids, lengths, { window, sink, compress, groups }) => {
        const memory = 2 * groups;
        const given = { window, sink, compress, memory, update };
        const reference = { window, sink, leave: compress, memory, merge: update === "merge" };
        await check({ method: "streaming-ccm", options: given }, ids, lengths, reference);
      }),
      { numRuns: 25 },
    );
  });

  async function check(
    choice: CreateMemoryOptions,
    ids: readonly number[],
    lengths: readonly number[],
    options: ConstructorParameters<typeof StreamReference>[2],
  ): Promise<void> {
    const memory = await fixture.memory(choice);
    const reference = new StreamReference(fixture.files, fixture.adapter, options);
    const expected = ids.flatMap((token) => [...reference.feed(token)]);
    expect(difference(await logitsInPieces(memory, ids, lengths), expected)).toBeLessThan(TOLERANCE);
    expect((await memory.stats()).slots).toBe(reference.length);
    await memory.dispose();
  }
});
