/** @file The arithmetic of serving within a budget, and the samples that are served. */
import { describe, expect, test } from "vitest";
import { batchesFor, largestBatch, peakSlots } from "../../bench/serve/capacity.js";
import type { MethodResult } from "../../bench/serve/measure.js";
import { cpuRatioAt, ratioAt } from "../../bench/serve/report.js";
import { makeSamples } from "../../bench/serve/samples.js";
import { SeededRandom } from "../../src/data/random.js";
import { RANDOM_WORDS } from "../../src/data/settings/random-words.js";
import type { ChatMessage } from "../../src/text/chat-template.js";

describe("KV positions of a sample", () => {
  test("are memory, input and answer, but for the answer's last token", () => {
    expect(peakSlots({ memorySlots: 96, inputTokens: 30, answerTokens: 8 })).toBe(133);
    expect(peakSlots({ memorySlots: 0, inputTokens: 1, answerTokens: 1 })).toBe(1);
  });
});

describe("the largest batch", () => {
  test.each([
    ["fills a budget exactly", 64e6, 16e6, { batch: 4, capped: false }],
    ["never goes over it", 64e6, 16e6 + 1, { batch: 3, capped: false }],
    ["is none where a sample does not fit", 16e6, 16e6 + 1, { batch: 0, capped: false }],
    ["is the cap where more would fit", 64e6, 0.5e6, { batch: 100, capped: true }],
    ["of just the cap is not called capped", 50e6, 0.5e6, { batch: 100, capped: false }],
  ])("%s", (_, budget, sample, wanted) => {
    expect(largestBatch(budget, sample, 100)).toEqual(wanted);
  });

  test("is answered as often as makes up the wanted samples, at least once", () => {
    expect([batchesFor(24, 1), batchesFor(24, 7), batchesFor(24, 24), batchesFor(24, 100)]).toEqual([24, 4, 1, 1]);
  });
});

describe("throughput against the full context", () => {
  const method = (batch: number, rates: number[]): MethodResult => ({
    method: "any",
    contextTokens: 500,
    contextSlots: 500,
    sampleBytes: 1e6,
    alone: [],
    reading: [],
    together: [{ budgetBytes: 1e6, batch, capped: false, rates, cpuMs: rates.map((rate) => 1000 / rate) }],
  });

  test("is compared round by round", () => {
    const ratio = ratioAt(0, method(9, [20, 10, 12]), method(1, [10, 2, 4]));
    expect(ratio).toEqual({ median: 3, lowest: 2, highest: 5 });
    expect(cpuRatioAt(0, method(9, [20, 10, 12]), method(1, [10, 2, 4]))).toEqual(ratio);
  });

  test("is none where one of them fits no sample", () => {
    expect(ratioAt(0, method(9, [20]), method(0, []))).toBeUndefined();
  });
});

describe("samples", () => {
  const rendered: { messages: readonly ChatMessage[]; previous: readonly ChatMessage[] }[] = [];
  const render = (messages: readonly ChatMessage[], previous: readonly ChatMessage[]): number[] => {
    rendered.push({ messages, previous });
    return Array.from(messages.map(({ content }) => content).join("\n"), (letter) => letter.charCodeAt(0));
  };
  const make = (seed: number) =>
    makeSamples({ step: render, prompt: render }, new SeededRandom(seed), RANDOM_WORDS, {
      contexts: 2,
      demonstrations: 16,
      questions: 3,
    });

  test("are contexts of as many steps as asked for and questions, the same for a seed", () => {
    const { contexts, questions } = make(1);
    expect(contexts.map((steps) => steps.length)).toEqual([16, 16]);
    expect(questions).toHaveLength(3);
    expect(make(1)).toEqual({ contexts, questions });
    expect(make(2)).not.toEqual({ contexts, questions });
  });

  test("say something else each time, with few answers per context", () => {
    rendered.length = 0;
    make(1);
    const demonstrations = rendered.slice(0, 16).map(({ messages }) => messages);
    expect(new Set(demonstrations.map(([question]) => question.content)).size).toBe(16);
    expect(new Set(demonstrations.map(([, answer]) => answer.content)).size).toBeLessThanOrEqual(4);
  });

  test("are rendered as a conversation: only a context's first step begins one", () => {
    rendered.length = 0;
    make(1);
    const isFirst = rendered.map(({ previous }) => previous.length === 0);
    expect(isFirst.flatMap((first, index) => (first ? [index] : []))).toEqual([0, 16]);
  });
});
