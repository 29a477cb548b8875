/** @file Models that come and go: disposed while busy, left undisposed, loaded side by side. */

import { spawnSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { afterAll, beforeAll, expect, test } from "vitest";

import { loadModel } from "#precis/index.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { tracesOn } from "../traces.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 81 });
});
afterAll(() => fixture[Symbol.asyncDispose]());

test("a model may be disposed at any moment of its work", async () => {
  for (let delay = 0; delay < 12; delay++) {
    const model = await loadModel(fixture.files.directory, { device: "cpu" });
    const memories = await Promise.all([model.createMemory({ method: "sliding-window" }), model.createMemory()]);
    const work = [
      memories[0].answer(textIds(3), { maxTokens: 100_000, ignoreEos: true }),
      memories[1].append(textIds(1900)),
      model.createMemory({ method: "gist", adapter: fixture.adapter.directory }),
    ];
    const settled = Promise.allSettled(work);
    await sleep(delay);
    await model.dispose();
    const [answer] = await settled;
    expect(answer).toMatchObject({ status: "rejected", reason: { code: "DISPOSED" } });
  }
});

test("many calls at once are one listener on their common signal, and none afterwards", async () => {
  const { signal } = new AbortController();
  const memories = await Promise.all(Array.from({ length: 16 }, () => fixture.model.createMemory()));
  try {
    for (let round = 0; round < 3; round++) {
      const work: Promise<unknown>[] = memories.map((memory) =>
        memory.answer(textIds(3), { maxTokens: 2, ignoreEos: true, signal }),
      );
      work.push(expect(memories[0]?.append([-1], { signal })).rejects.toMatchObject({ code: "INPUT_INVALID" }));
      expect(tracesOn(signal)).toBe(1);
      await Promise.all(work);
      expect(tracesOn(signal)).toBe(0);
    }
  } finally {
    await Promise.all(memories.map((memory) => memory.dispose()));
  }
});

test("an abort reaches every call with the signal, and leaves no listener", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const memories = await Promise.all(Array.from({ length: 16 }, () => fixture.model.createMemory()));
  const work = memories.map((memory) => memory.answer(textIds(3), { maxTokens: 500, ignoreEos: true, signal }));
  controller.abort();
  for (const end of await Promise.allSettled(work)) {
    expect(end).toMatchObject({ status: "rejected", reason: { code: "ABORTED" } });
  }
  expect(tracesOn(signal)).toBe(0);
  await Promise.all(memories.map((memory) => memory.dispose()));
});

/** Runs a module's text, to which `model` and `memory` are known, in a process of its own. */
function runProcess(directory: string, text: string): { status: number | null; stdout: string; stderr: string } {
  const script = `
    import { loadModel } from ${JSON.stringify(fileURLToPath(import.meta.resolve("#precis/index.js")))};
    const model = await loadModel(${JSON.stringify(directory)}, { device: "cpu" });
    const memory = await model.createMemory({ method: "sliding-window" });
    ${text}`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    timeout: 30_000,
  });
  return { status, stdout, stderr };
}

test("a process ends by itself although its model was never disposed", () => {
  const text = 'console.log((await memory.answer("Hi", { maxTokens: 4, ignoreEos: true })).tokenIds.length);';
  expect(runProcess(fixture.files.directory, text)).toEqual({ status: 0, stdout: "4\n", stderr: "" });
});

test.each([10, 100])("a process may exit %i ms into a run, with the status it wants", (delay) => {
  const directory = fileURLToPath(new URL("../../models/precis-28m", import.meta.url));
  const text = `
    memory.append(Array.from({ length: 5000 }, (_, i) => i)).catch(() => undefined);
    setTimeout(() => process.exit(3), ${delay});`;
  expect(runProcess(directory, text)).toEqual({ status: 3, stdout: "", stderr: "" });
});

test("disposing a memory in the middle of its answer lets the answer end", async () => {
  const memory = await fixture.memory();
  const answer = memory.answer(textIds(3), { maxTokens: 30, ignoreEos: true });
  await memory.dispose();
  await expect(answer).resolves.toMatchObject({ reason: "length" });
  await expect(memory.stats()).rejects.toMatchObject({ code: "DISPOSED" });
});

test("two models answer side by side", async () => {
  await using other = await createFixture({ seed: 82 });
  const answer = async (of: Fixture): Promise<number[]> =>
    (await (await of.memory()).answer(textIds(5), { maxTokens: 25, ignoreEos: true })).tokenIds;
  const alone = [await answer(fixture), await answer(other)];
  expect(await Promise.all([answer(fixture), answer(other)])).toEqual(alone);
  expect(alone[0]).not.toEqual(alone[1]);
});
