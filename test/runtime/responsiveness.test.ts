/** @file The main thread stays free while the engine works, is told of progress, and can stop it. */

import { setTimeout as sleep } from "node:timers/promises";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, expect, test } from "vitest";

import { loadModel, type LanguageModel } from "#precis/index.js";
import { textIds } from "../conformance/fixtures.js";

const DIRECTORY = fileURLToPath(new URL("../../models/precis-28m", import.meta.url));
let model: LanguageModel;
beforeAll(async () => {
  model = await loadModel(DIRECTORY, { device: "cpu" });
});
afterAll(() => model.dispose());

test("timers keep firing during a long prefill", async () => {
  const memory = await model.createMemory({ method: "sliding-window", options: { window: 600 } });
  await memory.append(textIds(10));
  const gaps: number[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }, 10);
  const started = performance.now();
  for (let part = 0; part < 3; part++) await memory.append(textIds(900, part));
  const took = performance.now() - started;
  clearInterval(timer);
  expect(took).toBeGreaterThan(100);
  expect(gaps.length).toBeGreaterThan(took / 100);
  expect(Math.max(...gaps)).toBeLessThan(took / 3);
  // On the calling thread one run of 512 tokens would be such a gap; other processes may cost a timer some of it.
  expect(gaps.sort((a, b) => a - b)[Math.floor(gaps.length / 2)]).toBeLessThan(60);
});

test("a prefill reports its progress in tokens", async () => {
  const memory = await model.createMemory();
  const seen: { done: number; total: number }[] = [];
  await memory.append(textIds(900), { onProgress: (progress) => seen.push(progress) });
  expect(seen).toEqual([
    { done: 512, total: 900 },
    { done: 900, total: 900 },
  ]);
  const events = [];
  for await (const event of memory.generate(textIds(5), { maxTokens: 1 })) events.push(event);
  expect(events[0]).toEqual({ type: "prompt-progress", done: 5, total: 5 });
});

test("a prefill can be stopped midway and leaves no trace", async () => {
  const memory = await model.createMemory({ method: "sliding-window", options: { window: 100 } });
  await memory.append(textIds(3));
  const before = [await memory.stats(), (await memory.forward([30])).logits];
  const controller = new AbortController();
  let done = 0;
  const work = memory.append(textIds(3000), {
    signal: controller.signal,
    onProgress: (progress) => {
      done = progress.done;
      controller.abort();
    },
  });
  await expect(work).rejects.toMatchObject({ code: "ABORTED" });
  expect(done).toBeLessThan(2000);
  expect([await memory.stats(), (await memory.forward([30])).logits]).toEqual(before);
});

test("a prefill that cannot fit is refused before any work", async () => {
  const memory = await model.createMemory();
  let progressed = false;
  const work = memory.append(textIds(1100), { onProgress: () => (progressed = true) });
  await expect(work).rejects.toMatchObject({ code: "CONTEXT_OVERFLOW", message: /sliding-window or streaming/ });
  expect(progressed).toBe(false);
});

test("loading can be stopped", async () => {
  await expect(loadModel(DIRECTORY, { device: "cpu", signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: "ABORTED",
  });
});

test("one memory prefills while another answers, and both get on", async () => {
  const [reader, speaker] = [await model.createMemory(), await model.createMemory()];
  const times: number[] = [];
  const answer = (async () => {
    for await (const event of speaker.generate(textIds(4), { maxTokens: 40, ignoreEos: true })) {
      if (event.type === "text-delta") times.push(performance.now());
    }
  })();
  await sleep(5);
  await reader.append(textIds(1000));
  const finished = performance.now();
  await answer;
  expect(times.filter((time) => time < finished).length).toBeGreaterThan(1);
  expect(await speaker.stats()).toMatchObject({ tokensSeen: 44 });
  expect(await reader.stats()).toMatchObject({ tokensSeen: 1000 });
});
