/** @file What every memory method promises, method by method. */

import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { loadModel, MEMORY_METHODS, type LanguageModel, type Memory } from "#precis/index.js";
import { createFixture, textIds, TRIED_METHODS, type Fixture } from "./fixtures.js";

const QUESTION = textIds(6, 9);
const STEPS = [textIds(9, 1), textIds(5, 2), textIds(11, 3), textIds(1, 4)];

let fixture: Fixture;
let another: LanguageModel;
beforeAll(async () => {
  fixture = await createFixture();
  another = await loadModel(fixture.files.directory, { device: "cpu", threads: 1 });
});
afterAll(async () => {
  await another.dispose();
  await fixture[Symbol.asyncDispose]();
});

async function logitsOf(memory: Memory, input: readonly number[] = QUESTION): Promise<Float32Array> {
  return (await memory.forward(input)).logits;
}

test("every registered method is tried", () => {
  expect(new Set(TRIED_METHODS.map(({ method }) => method))).toEqual(new Set(MEMORY_METHODS.map(({ name }) => name)));
});

describe.each(TRIED_METHODS)("$label", ({ method, options, slots }) => {
  const create = (): Promise<Memory> => fixture.memory({ method, options });
  /** A memory in mid-life: steps appended, a question answered, a stream left open. */
  async function used(): Promise<Memory> {
    const memory = await create();
    for (const step of STEPS) await memory.append(step);
    await memory.answer(QUESTION, { maxTokens: 5, ignoreEos: true });
    await memory.score(textIds(4, 5));
    return memory;
  }
  const restore = (model: LanguageModel, bytes: Uint8Array): Promise<Memory> => {
    return model.restoreMemory(bytes, fixture.adaptersOf({ method, options }));
  };

  test("is deterministic", async () => {
    const [first, second] = [await used(), await used()];
    expect(await logitsOf(second)).toEqual(await logitsOf(first));
    expect(await second.stats()).toEqual(await first.stats());
  });

  test.each(["this model", "the model loaded anew"])("restores to the same logits bit for bit with %s", async (who) => {
    const memory = await used();
    const restored = await restore(who === "this model" ? fixture.model : another, await memory.snapshot());
    expect(await restored.stats()).toEqual(await memory.stats());
    expect(await restored.rows()).toEqual(await memory.rows());
    expect(await logitsOf(restored)).toEqual(await logitsOf(memory));
    // What comes after must be the same as well: eviction counters, merge counts, deferred text.
    for (const each of [memory, restored]) {
      await each.append(textIds(13, 6));
      await each.answer(QUESTION, { maxTokens: 3, ignoreEos: true });
    }
    expect(await restored.stats()).toEqual(await memory.stats());
    expect(await logitsOf(restored)).toEqual(await logitsOf(memory));
    expect(await restored.snapshot()).toEqual(await memory.snapshot());
  });

  test("a restore replaces what a memory held", async () => {
    const memory = await used();
    const bytes = await memory.snapshot();
    const before = await logitsOf(memory);
    await memory.append(textIds(20, 7));
    await memory.restore(bytes);
    expect(await logitsOf(memory)).toEqual(before);
  });

  test("half precision takes about half the bytes and stays close", async () => {
    const memory = await used();
    const [exact, half] = [await memory.snapshot(), await memory.snapshot({ precision: "fp16" })];
    const { bytes } = await memory.stats();
    expect(exact.length - half.length).toBeGreaterThanOrEqual(0.45 * bytes);
    const wanted = await logitsOf(memory);
    const close = await logitsOf(await restore(fixture.model, half));
    wanted.forEach((logit, i) => expect(Math.abs(close[i] - logit)).toBeLessThan(0.05));
  });

  test("codes of 8 and 4 bits take a quarter and an eighth, and compression loses nothing", async () => {
    const memory = await used();
    const { bytes } = await memory.stats();
    const wanted = await logitsOf(memory);
    const exact = await memory.snapshot();
    for (const [precision, share, near] of [
      ["int8", 0.3, 0.03],
      ["int4", 0.2, 0.4],
    ] as const) {
      const coded = await memory.snapshot({ precision });
      expect(exact.length - coded.length).toBeGreaterThanOrEqual((1 - share) * bytes * 0.9);
      const close = await logitsOf(await restore(fixture.model, coded));
      const off = wanted.reduce((sum, logit, i) => sum + (close[i] - logit) ** 2, 0);
      expect(Math.sqrt(off / wanted.reduce((sum, logit) => sum + logit ** 2, 0))).toBeLessThan(near);
      const compressed = await memory.snapshot({ precision, compress: true });
      expect(await logitsOf(await restore(fixture.model, compressed))).toEqual(close);
    }
    expect(await logitsOf(await restore(fixture.model, await memory.snapshot({ compress: true })))).toEqual(wanted);
  });

  test("forks are independent", async () => {
    const memory = await used();
    const before = await logitsOf(memory);
    const fork = await memory.fork();
    expect(await logitsOf(fork)).toEqual(before);
    await fork.append(textIds(17, 8));
    await fork.answer(textIds(3, 9), { maxTokens: 4, ignoreEos: true });
    expect(await logitsOf(memory)).toEqual(before);
    const changed = await logitsOf(fork);
    await memory.append(textIds(2, 10));
    await memory.dispose();
    expect(await logitsOf(fork)).toEqual(changed);
  });

  test("forward and forgotten answers change nothing", async () => {
    const memory = await used();
    const [stats, rows, logits] = [await memory.stats(), await memory.rows(), await logitsOf(memory)];
    await memory.forward(textIds(30, 11));
    await memory.answer(QUESTION, { maxTokens: 20, ignoreEos: true, remember: false });
    expect(await memory.stats()).toEqual(stats);
    expect(await memory.rows()).toEqual(rows);
    expect(await logitsOf(memory)).toEqual(logits);
  });

  test("an answer is remembered as if its text had been given", async () => {
    const memory = await create();
    const twin = await create();
    for (const each of [memory, twin]) await each.append(STEPS[0]);
    const { tokenIds } = await memory.answer(QUESTION, { maxTokens: 6, ignoreEos: true });
    await twin.score([...QUESTION, ...tokenIds]);
    for (const each of [memory, twin]) await each.append(STEPS[1]);
    expect((await twin.stats()).tokensSeen).toBe((await memory.stats()).tokensSeen);
    const [wanted, got] = [await logitsOf(twin), await logitsOf(memory)];
    wanted.forEach((logit, i) => expect(got[i]).toBeCloseTo(logit, 3));
  });

  test("aborting leaves stats and logits unchanged", async () => {
    const memory = await used();
    const [stats, logits] = [await memory.stats(), await logitsOf(memory)];
    const signal = AbortSignal.abort();
    await expect(memory.append(textIds(9), { signal })).rejects.toMatchObject({ code: "ABORTED" });
    const controller = new AbortController();
    const work = memory.answer(textIds(900, 12), { maxTokens: 2000, ignoreEos: true, signal: controller.signal });
    await sleep(30);
    controller.abort();
    await expect(work).rejects.toMatchObject({ code: "ABORTED" });
    expect(await memory.stats()).toEqual(stats);
    expect(await logitsOf(memory)).toEqual(logits);
  });

  test.runIf(slots !== undefined)("holds no more than its bound over 300 steps", async () => {
    const memory = await create();
    // Gist reads everything again at every step; a short text does.
    const steps = method === "gist" ? 30 : 300;
    let most = 0;
    for (let step = 0; step < steps; step++) {
      const stats = await memory.append(textIds(1 + (step % 4), step));
      most = Math.max(most, stats.slots);
    }
    const stats = await memory.stats();
    expect(most).toBeLessThanOrEqual(slots as number);
    expect(stats).toMatchObject({ steps, bytes: stats.slots * fixture.model.info.bytesPerSlot });
    expect((await memory.snapshot()).length).toBeLessThan(most * fixture.model.info.bytesPerSlot + 6000);
    expect(await logitsOf(memory)).not.toContain(NaN);
  });

  test("rejects everything after dispose", async () => {
    const memory = await used();
    await memory.dispose();
    const disposed = { code: "DISPOSED" };
    await expect(memory.append([20])).rejects.toMatchObject(disposed);
    await expect(memory.answer([20])).rejects.toMatchObject(disposed);
    await expect(memory.forward([20])).rejects.toMatchObject(disposed);
    await expect(memory.score([20])).rejects.toMatchObject(disposed);
    await expect(memory.snapshot()).rejects.toMatchObject(disposed);
    await expect(memory.restore(new Uint8Array(4))).rejects.toMatchObject(disposed);
    await expect(memory.fork()).rejects.toMatchObject(disposed);
    await expect(memory.stats()).rejects.toMatchObject(disposed);
    await expect(memory.rows()).rejects.toMatchObject(disposed);
    await expect(memory.dispose()).resolves.toBeUndefined();
  });
});

describe("where nothing needs to be left out, a bounded method equals the full cache", () => {
  test.each([
    { method: "sliding-window", options: { window: 500 } },
    { method: "streaming", options: { window: 500 } },
    { method: "streaming-ccm", options: { window: 500, compress: 10 } },
    { method: "compressive", options: { pool: 1 } },
    { method: "compressive", options: { slots: 11 } },
  ])("$method", async (choice) => {
    const [memory, full] = [await fixture.memory(choice), await fixture.memory({ method: "full" })];
    for (const each of [memory, full]) for (const step of STEPS) await each.append(step);
    const [got, wanted] = [await logitsOf(memory), await logitsOf(full)];
    wanted.forEach((logit, i) => expect(got[i]).toBeCloseTo(logit, 4));
  });

  test("ccm methods with no step equal the full cache", async () => {
    const wanted = await logitsOf(await fixture.memory({ method: "full" }));
    for (const method of ["ccm-concat", "ccm-merge", "gist", "compressive", "none"]) {
      expect(await logitsOf(await fixture.memory({ method }))).toEqual(wanted);
    }
  });

  test("recurrent summaries with no step equal the full cache with the same adapter", async () => {
    const adapter = fixture.recurrent.directory;
    const wanted = await logitsOf(await fixture.model.createMemory({ method: "full", adapter }));
    for (const method of ["autocompressor", "rmt"]) {
      expect(await logitsOf(await fixture.memory({ method }))).toEqual(wanted);
    }
  });

  test("rmt equals autocompressor after one step", async () => {
    const [rmt, autocompressor] = [
      await fixture.memory({ method: "rmt" }),
      await fixture.memory({ method: "autocompressor" }),
    ];
    for (const each of [rmt, autocompressor]) await each.append(STEPS[0]);
    expect(await rmt.rows()).toEqual(await autocompressor.rows());
    for (const each of [rmt, autocompressor]) await each.append(STEPS[1]);
    expect([(await rmt.stats()).slots, (await autocompressor.stats()).slots]).toEqual([2, 4]);
  });

  test("summaries need an adapter that was trained for them", async () => {
    for (const method of ["autocompressor", "rmt"]) {
      await expect(fixture.model.createMemory({ method, adapter: fixture.adapter.directory })).rejects.toMatchObject({
        code: "ADAPTER_MISMATCH",
      });
    }
  });

  test("ccm-merge equals ccm-concat after one step", async () => {
    const [merge, concat] = [
      await fixture.memory({ method: "ccm-merge" }),
      await fixture.memory({ method: "ccm-concat" }),
    ];
    for (const each of [merge, concat]) await each.append(STEPS[0]);
    expect(await merge.rows()).toEqual(await concat.rows());
  });
});

describe("answers given together", () => {
  const prompts = [textIds(3, 20), textIds(17, 21), textIds(8, 22), textIds(1, 23)];

  test.each([
    ["of one method", ["full", "full", "full", "full"]],
    ["of different methods", ["full", "ccm-merge", "streaming", "streaming-ccm"]],
    ["of recurrent memories", ["autocompressor", "rmt", "ccm-concat", "full"]],
    ["of compressed memories", ["ccm-concat", "ccm-merge", "gist", "compressive"]],
  ])("are those given one by one: %s", async (_, methods) => {
    const make = async (): Promise<Memory[]> => {
      const memories: Memory[] = [];
      for (const [index, method] of methods.entries()) {
        const { options } = TRIED_METHODS.find((tried) => tried.method === method)!;
        const memory = await fixture.memory({ method, options });
        await memory.append(STEPS[index]);
        memories.push(memory);
      }
      return memories;
    };
    const answer = (memory: Memory, index: number): Promise<number[]> =>
      memory.answer(prompts[index], { maxTokens: 20 + 15 * index, ignoreEos: true }).then(({ tokenIds }) => tokenIds);
    const alone: number[][] = [];
    const single = await make();
    for (const [index, memory] of single.entries()) alone.push(await answer(memory, index));
    const batched = await make();
    expect(await Promise.all(batched.map(answer))).toEqual(alone);
    // The memories they leave behind are usable and alike.
    for (const [index, memory] of batched.entries()) {
      const twin = single[index];
      expect(await memory.stats()).toEqual(await twin.stats());
      const [got, wanted] = [await logitsOf(memory), await logitsOf(twin)];
      wanted.forEach((logit, i) => expect(got[i]).toBeCloseTo(logit, 2));
    }
  });
});
