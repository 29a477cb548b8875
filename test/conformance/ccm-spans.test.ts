/** @file Conversations whose steps contain sentinel spans and are then compressed by CCM, against a float64 reference. */

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { sentinelIds, type Memory } from "#precis/index.js";
import { difference } from "../golden/compare.js";
import { readDecoderConfig } from "../reference/decoder-config.js";
import { decode, type DecodeOutput, type LayerCache } from "../reference/decoder.js";
import { joinRows, sliceRows } from "../reference/kernels.js";
import { sentinelAttends } from "../reference/sentinel-oracle.js";
import { expectError } from "./expect-error.js";
import { createFixture, textIds, type Fixture } from "./fixtures.js";

const TOLERANCE = 1e-4;
const VOCAB = 320;
const { open, close } = sentinelIds(VOCAB);
let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 61, layers: 3 });
});
afterAll(() => fixture[Symbol.asyncDispose]());

const id = fc.integer({ min: 6, max: VOCAB - 1 });
const stretch = fc.record({ wrapped: fc.boolean(), ids: fc.array(id, { minLength: 2, maxLength: 6 }) });
const marked = fc
  .array(stretch, { minLength: 1, maxLength: 4 })
  .map((stretches) => stretches.flatMap(({ wrapped, ids }) => (wrapped ? [open, ...ids, close] : ids)));

/** A step or an input given a memory: text and sentinels by the sentinel adapter, which sees no COMP token's adapter. */
function readMarked(ids: readonly number[], before: number, memory: LayerCache[] | undefined): DecodeOutput {
  const { kvHeads, headDim } = readDecoderConfig(fixture.files.config);
  const held = memory === undefined ? 0 : memory[0].keys.length / kvHeads / headDim;
  const row = { ids, vocabSize: VOCAB };
  let text = before;
  const positions = ids.map((token) => (token < VOCAB ? text++ : Math.max(0, text - 1)));
  return decode(fixture.files, {
    inputIds: ids,
    positionIds: positions,
    // Sentinels see their span alone; text sees the memory as well.
    attend: ids.flatMap((token, i) => [
      ...Array.from({ length: held }, () => (token < VOCAB ? 1 : 0)),
      ...ids.map((_, j) => (sentinelAttends(row, i, j) ? 1 : 0)),
    ]),
    gate: ids.map(() => 1),
    adapter: fixture.sentinelAdapter,
    past: memory,
  });
}

/** Memory and logits of the input, step by step with an explicit cache. */
function reference(
  steps: readonly number[][],
  input: readonly number[],
  merges: boolean,
): DecodeOutput & { memory: LayerCache[] } {
  const { kvHeads, headDim } = readDecoderConfig(fixture.files.config);
  const { compTokens } = fixture.adapter;
  let memory: LayerCache[] | undefined;
  let text = 0;
  steps.forEach((ids, step) => {
    const { cache } = readMarked(ids, text, memory);
    text += ids.filter((token) => token < VOCAB).length;
    // What is left of the step: text outside spans, and each <CR>.
    let inside = false;
    let left = memory;
    ids.forEach((token, i) => {
      if (token === open || token === close) inside = token === open;
      if (token === open || inside) return;
      left = cache.map(({ keys, values }, layer): LayerCache => ({
        keys: joinRows(left?.[layer].keys, sliceRows(keys, kvHeads, headDim, i, i + 1), kvHeads),
        values: joinRows(left?.[layer].values, sliceRows(values, kvHeads, headDim, i, i + 1), kvHeads),
      }));
    });
    const comp = Array.from({ length: compTokens }, (_, k) => VOCAB + k);
    const fresh = decode(fixture.files, {
      inputIds: comp,
      positionIds: comp.map((_, k) => text + k),
      adapter: fixture.adapter,
      past: left,
    }).cache;
    const previous = memory;
    const join = (name: "keys" | "values", layer: number): Float64Array => {
      if (previous === undefined) return fresh[layer][name];
      if (!merges) return joinRows(previous[layer][name], fresh[layer][name], kvHeads);
      return previous[layer][name].map((old, i) => old + (fresh[layer][name][i] - old) / (step + 1));
    };
    memory = fresh.map((_, layer) => ({ keys: join("keys", layer), values: join("values", layer) }));
  });
  return { ...readMarked(input, text, memory), memory: memory ?? [] };
}

describe("steps with sentinel spans, compressed by CCM", () => {
  test.each(["ccm-concat", "ccm-merge"])("%s equals the reference", async (method) => {
    await fc.assert(
      fc.asyncProperty(fc.array(marked, { minLength: 1, maxLength: 4 }), marked, async (steps, input) => {
        const memory = await fixture.memory({ method, options: { spans: "marked" } });
        for (const step of steps) await memory.append(step);
        const expected = reference(steps, input, method === "ccm-merge");
        const { keys, values, kinds } = await memory.rows();
        expect(new Set(kinds)).toEqual(new Set(["memory"]));
        expected.memory.forEach((rows, layer) => {
          expect(difference(keys[layer], rows.keys)).toBeLessThan(TOLERANCE);
          expect(difference(values[layer], rows.values)).toBeLessThan(TOLERANCE);
        });
        const { logits } = await memory.forward(input);
        const wanted = input.flatMap((token, i) =>
          token < VOCAB ? [...expected.logits.subarray(i * VOCAB, (i + 1) * VOCAB)] : [],
        );
        expect(difference(logits, wanted)).toBeLessThan(TOLERANCE);
        await memory.dispose();
      }),
      { numRuns: 20 },
    );
  });

  test("an open step holds less, while it is read and while it is answered", async () => {
    const options = { spans: "fixed", spanWords: 2 };
    const [memory, plain] = [
      await fixture.memory({ method: "ccm-concat", options }),
      await fixture.memory({ method: "ccm-concat" }),
    ];
    const conversation = [{ role: "user", content: "one two three four five six" }];
    const peaks: number[] = [];
    for (const each of [memory, plain]) {
      await each.append(conversation);
      const { stats } = await each.answer(conversation, { maxTokens: 40, ignoreEos: true });
      expect(stats).toMatchObject({ steps: 2, slots: 2 * fixture.adapter.compTokens });
      peaks.push(await each.peakSlots());
    }
    expect(peaks[0]).toBeLessThan(peaks[1] - 20);
  });

  test("snapshots belong to both adapters", async () => {
    const memory = await fixture.memory({ method: "ccm-merge", options: { spans: "fixed", spanWords: 2 } });
    await memory.append(textIds(20));
    await memory.score(textIds(11, 1));
    const bytes = await memory.snapshot();
    const { adapter, spanAdapter } = fixture.adaptersOf({ method: "ccm-merge", options: { spans: "fixed" } });
    await expectError(fixture.model.restoreMemory(bytes, { adapter }), "SNAPSHOT_MISMATCH", /another adapter/);
    const restored = await fixture.model.restoreMemory(bytes, { adapter, spanAdapter });
    for (const each of [memory, restored]) await each.append(textIds(9, 2));
    expect(await restored.rows()).toEqual(await memory.rows());
  });

  test("adapters that do not fit are refused, with what would", async () => {
    const { adapter, sentinelAdapter, model } = fixture;
    const create = (options: Parameters<typeof model.createMemory>[0]): Promise<Memory> => model.createMemory(options);
    const [comp, span] = [adapter.directory, sentinelAdapter.directory];
    const spans = { spans: "sentence" };
    const refused = "ADAPTER_MISMATCH";
    await expectError(
      create({ method: "ccm-concat", adapter: comp, options: spans }),
      refused,
      /second adapter/,
      /spanAdapter/,
    );
    await expectError(
      create({ method: "ccm-concat", adapter: comp, options: spans, spanAdapter: comp }),
      refused,
      /second/,
    );
    await expectError(create({ method: "ccm-concat", adapter: comp, spanAdapter: span }), refused, /option spans/);
    await expectError(create({ method: "ccm-concat", adapter: span }), refused, /has sentinels/);
    await expectError(create({ method: "sentinel", adapter: comp }), refused, /trained for it/);
    const twice = { spans: "marked", recursive: false };
    await expectError(
      create({ method: "ccm-concat", adapter: comp, spanAdapter: span, options: twice }),
      "OPTION_INVALID",
      /read twice/,
    );
  });
});
