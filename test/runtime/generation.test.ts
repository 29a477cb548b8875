/** @file Answers as users see them: when they end, what streams out, and what the memory keeps of them. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { GenerateOptions, GenerationEvent, Memory } from "#precis/index.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { decode } from "../reference/decoder.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 21 });
});
afterAll(() => fixture[Symbol.asyncDispose]());

const PROMPT = "Où est le café ☕ ?";
const LONG: GenerateOptions = { maxTokens: 40, ignoreEos: true };

async function collect(memory: Memory, input: string, options: GenerateOptions): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = [];
  for await (const event of memory.generate(input, options)) events.push(event);
  return events;
}

function finishOf(events: readonly GenerationEvent[]): Extract<GenerationEvent, { type: "finish" }> {
  const last = events.at(-1);
  if (last?.type !== "finish") throw new Error("The last event does not finish");
  return last;
}

const deltas = (events: readonly GenerationEvent[]): Extract<GenerationEvent, { type: "text-delta" }>[] =>
  events.filter((event) => event.type === "text-delta");

describe("an answer", () => {
  test("is the reference's greedy choice, token by token", async () => {
    const ids = textIds(9);
    const { tokenIds } = await (await fixture.memory()).answer(ids, { maxTokens: 10, ignoreEos: true });
    for (let i = 0; i < tokenIds.length; i++) {
      const inputIds = [...ids, ...tokenIds.slice(0, i)];
      const last = decode(fixture.files, { inputIds }).logits.subarray((inputIds.length - 1) * 320);
      expect(tokenIds[i]).toBe(last.indexOf(last.reduce((a, b) => Math.max(a, b), -Infinity)));
    }
  });

  test.each([1, 2, 7])("has no more than maxTokens = %i tokens", async (maxTokens) => {
    const events = await collect(await fixture.memory(), PROMPT, { maxTokens, ignoreEos: true });
    const finish = finishOf(events);
    expect(finish).toMatchObject({ reason: "length", timings: { generatedTokens: maxTokens } });
    expect(finish.tokenIds).toHaveLength(maxTokens);
  });

  test.each([0, 1, 2, 3, 4])("streams exactly its final text, whatever bytes come (seed %i)", async (seed) => {
    const events = await collect(await fixture.memory(), PROMPT, { ...LONG, temperature: 1.5, seed });
    const finish = finishOf(events);
    expect(
      deltas(events)
        .map(({ text }) => text)
        .join(""),
    ).toBe(finish.text);
    expect(finish.text).toBe(await fixture.model.detokenize(finish.tokenIds, { skipSpecialTokens: true }));
    const ids = deltas(events).flatMap(({ tokenId }) => tokenId ?? []);
    expect(ids).toEqual(finish.tokenIds);
  });

  test("ends at an end-of-text token, which is not part of it", async () => {
    const memory = await fixture.memory();
    // A sampled run is repeated with the token that it chose first made the end.
    for (let seed = 0; seed < 200; seed++) {
      const options = { maxTokens: 60, temperature: 3, seed };
      const free = await memory.answer(PROMPT, { ...options, ignoreEos: true, remember: false });
      const end = free.tokenIds.indexOf(2);
      if (end < 0) continue;
      const ended = await memory.answer(PROMPT, { ...options, remember: false });
      expect(ended).toMatchObject({ reason: "end", tokenIds: free.tokenIds.slice(0, end) });
      return;
    }
    throw new Error("No seed led to an end-of-text token");
  });

  test("ends before a stop string, wherever token borders lie", async () => {
    const memory = await fixture.memory();
    const free = await memory.answer(PROMPT, { ...LONG, remember: false });
    for (const length of [1, 3, 6]) {
      const at = Math.floor(free.text.length / 2);
      const stop = free.text.slice(at, at + length);
      const events = await collect(memory, PROMPT, { ...LONG, stop: ["never this", stop], remember: false });
      const finish = finishOf(events);
      expect(finish).toMatchObject({ reason: "stop-string", text: free.text.slice(0, free.text.indexOf(stop)) });
      expect(
        deltas(events)
          .map(({ text }) => text)
          .join(""),
      ).toBe(finish.text);
    }
  });

  test("comes with log-probabilities when asked", async () => {
    const memory = await fixture.memory();
    const plain = await collect(memory, PROMPT, { ...LONG, remember: false });
    expect(deltas(plain).every((event) => !("logprob" in event))).toBe(true);
    const events = deltas(await collect(memory, PROMPT, { ...LONG, logprobs: 3, remember: false }));
    for (const { tokenId, logprob, topLogprobs } of events) {
      if (tokenId === undefined) continue;
      expect(topLogprobs).toHaveLength(3);
      expect(topLogprobs?.[0]).toEqual({ id: tokenId, logprob });
      const probabilities = topLogprobs?.map((top) => Math.exp(top.logprob)) ?? [];
      expect([...probabilities].sort((a, b) => b - a)).toEqual(probabilities);
      expect(probabilities.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(1 + 1e-6);
    }
  });

  test("is the same for the same seed and differs for others", async () => {
    const memory = await fixture.memory();
    const sampled = async (seed: number): Promise<number[]> =>
      (await memory.answer(PROMPT, { ...LONG, temperature: 1, seed, remember: false })).tokenIds;
    expect(await sampled(5)).toEqual(await sampled(5));
    expect(await sampled(6)).not.toEqual(await sampled(5));
  });
});

describe("after an answer", () => {
  test("memory holds input and answer once each, however the answer ended", async () => {
    for (const options of [
      { maxTokens: 6, ignoreEos: true },
      { maxTokens: 200, temperature: 3, seed: 1 },
      { maxTokens: 200, temperature: 3, seed: 2, stop: ["e"] },
    ]) {
      const [memory, twin] = [await fixture.memory(), await fixture.memory()];
      const prompt = await fixture.model.tokenize(PROMPT);
      const { tokenIds } = await memory.answer(prompt, options);
      await twin.append([...prompt, ...tokenIds]);
      expect(await memory.stats()).toEqual(await twin.stats());
      const [got, wanted] = [await memory.forward([42]), await twin.forward([42])];
      wanted.logits.forEach((logit, i) => expect(got.logits[i]).toBeCloseTo(logit, 4));
    }
  });

  test("leaving the loop early keeps what was said so far", async () => {
    const memory = await fixture.memory();
    let heard = 0;
    for await (const event of memory.generate(textIds(5), { maxTokens: 2000, ignoreEos: true })) {
      if (event.type === "text-delta") heard += 1;
      if (heard === 3) break;
    }
    const stats = await memory.stats();
    expect(stats.steps).toBe(1);
    expect(stats.tokensSeen).toBeGreaterThanOrEqual(5 + 3);
    expect(stats.tokensSeen).toBeLessThan(1500);
    expect(stats.slots).toBe(stats.tokensSeen);
    await memory.append(textIds(2));
    expect((await memory.stats()).tokensSeen).toBe(stats.tokensSeen + 2);
  });

  test("messages are closed as the chat template closes them", async () => {
    const [memory, twin] = [await fixture.memory(), await fixture.memory()];
    const { tokenIds } = await memory.answer([{ role: "user", content: "Who?" }], { maxTokens: 8, ignoreEos: true });
    const turn = await fixture.model.tokenize("<|bos|><|user|>Who?<|end|><|assistant|>");
    const [end] = await fixture.model.tokenize("<|end|>");
    await twin.append([...turn, ...tokenIds, end]);
    expect(await memory.stats()).toEqual(await twin.stats());
    const [got, wanted] = [await memory.forward([42]), await twin.forward([42])];
    wanted.logits.forEach((logit, i) => expect(got.logits[i]).toBeCloseTo(logit, 4));
  });
});

describe("answers in a batch", () => {
  test("one that outgrows the model fails alone", async () => {
    await using small = await createFixture({ seed: 21 }, { config: { max_position_embeddings: 64 } });
    const wanted = (await (await fixture.memory()).answer(textIds(4), { maxTokens: 50, ignoreEos: true })).tokenIds;
    const [fits, overflows, streams] = [
      await small.memory(),
      await small.memory(),
      await small.memory({ method: "streaming", options: { window: 32 } }),
    ];
    const results = await Promise.allSettled([
      fits.answer(textIds(4), { maxTokens: 50, ignoreEos: true }),
      overflows.answer(textIds(40), { maxTokens: 50, ignoreEos: true }),
      streams.answer(textIds(40), { maxTokens: 100, ignoreEos: true }),
    ]);
    expect(results[0]).toMatchObject({ status: "fulfilled", value: { tokenIds: wanted } });
    expect(results[1]).toMatchObject({ status: "rejected", reason: { code: "CONTEXT_OVERFLOW" } });
    expect(results[2]).toMatchObject({ status: "fulfilled", value: { timings: { generatedTokens: 100 } } });
    // The failed answer is forgotten, and its memory goes on.
    expect(await overflows.stats()).toMatchObject({ slots: 0, tokensSeen: 0, steps: 0 });
    await overflows.append(textIds(40));
  });

  test("one that is cancelled leaves the others alone", async () => {
    const wanted = (await (await fixture.memory()).answer(textIds(4), { maxTokens: 80, ignoreEos: true })).tokenIds;
    const [kept, cancelled] = [await fixture.memory(), await fixture.memory()];
    const controller = new AbortController();
    const answer = kept.answer(textIds(4), { maxTokens: 80, ignoreEos: true });
    const failure = (async () => {
      let tokens = 0;
      const events = cancelled.generate(textIds(9), { maxTokens: 1000, ignoreEos: true, signal: controller.signal });
      for await (const event of events) {
        if (event.type === "text-delta" && ++tokens === 5) controller.abort();
      }
    })();
    await expect(failure).rejects.toMatchObject({ code: "ABORTED" });
    expect((await answer).tokenIds).toEqual(wanted);
    expect(await cancelled.stats()).toMatchObject({ slots: 0, steps: 0 });
  });
});
