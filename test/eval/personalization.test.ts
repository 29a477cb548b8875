/** @file What personalisation asks about a user, and how the answer given is told. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { EvaluationCase } from "#precis/eval/case.js";
import { parseMethodSpec } from "#precis/eval/method-spec.js";
import { argmax } from "#precis/eval/metrics.js";
import { runCase } from "#precis/eval/run-case.js";
import { personalizationTask } from "#precis/eval/tasks/personalization.js";
import type { LanguageModel } from "#precis/runtime/model.js";
import { jsonLines, tinyText } from "../data/tiny-data.js";
import { temporaryFolder, writeFiles } from "../weights/folders.js";

/** Three chunks of every user's ratings, and replies with options of their own; the users of odd number are held out. */
const USERS = 12;
const CHUNKS = 3;

function ratings(): unknown[] {
  return everyChunk((user, chunk) => ({
    profile: [0, 1, 2].map((entry) => ({
      input: `film ${chunk}${entry}`,
      output: entry === user % 3 ? "like" : "dislike",
    })),
    query: { input: `film ${chunk}9`, output: "like" },
    options: ["like", "dislike"],
  }));
}

function replies(): unknown[] {
  const reply = (user: number, chunk: number): string => `reply ${user}.${chunk}`;
  return everyChunk((user, chunk) => ({
    profile: [{ input: `hello ${user}`, output: `profile reply ${user}` }],
    query: { input: `how ${user}.${chunk}`, output: reply(user, chunk) },
    options: [reply(user, chunk), reply((user + 1) % USERS, chunk), reply((user + 2) % USERS, chunk)],
  }));
}

function everyChunk(make: (user: number, chunk: number) => object): unknown[] {
  const places = Array.from(
    { length: USERS * CHUNKS },
    (_, index) => [index % USERS, Math.floor(index / USERS)] as const,
  );
  return places.map(([user, chunk]) => ({ user: `u${user}`, ...make(user, chunk) }));
}

let data: Awaited<ReturnType<typeof temporaryFolder>>;
let text: Awaited<ReturnType<typeof tinyText>>;

beforeAll(async () => {
  [data, text] = await Promise.all([temporaryFolder(), tinyText()]);
  const heldOut = Array.from({ length: USERS }, (_, user) => user).filter((user) => user % 2 === 1);
  await writeFiles(data.path, {
    "personal/split.json": { test: heldOut.map((user) => `u${user}`) },
    "personal/ratings.jsonl": jsonLines(ratings()),
    "personal/replies.jsonl": jsonLines(replies()),
  });
});

afterAll(async () => {
  await data[Symbol.asyncDispose]();
});

function casesOf(only: string, questions: number): Promise<EvaluationCase[]> {
  const limits = { maxPositions: 1000, steps: [3], limit: 100, maxOptions: 12 };
  return personalizationTask.buildCases({
    dataDir: data.path,
    pieces: text.pieces,
    seed: 1,
    only: [only],
    questions,
    ...limits,
  });
}

const decode = (ids: readonly number[]): string => text.tokenizer.decode([...ids]);

/** The numbers of films that a text names. */
const films = (ids: readonly number[]): string[] => decode(ids).match(/film \d+/g) ?? [];

describe("questions about a user", () => {
  test("one is the profile's own", async () => {
    const cases = await casesOf("ratings", 1);
    expect(cases).toHaveLength((USERS / 2) * CHUNKS);
    for (const { steps, probes } of cases) {
      const chunk = /film (\d)/.exec(decode(steps.flat()))?.[1];
      expect(probes[0].questions.map(({ input }) => films(input))).toEqual([[`film ${chunk}9`]]);
    }
  });

  test("more are about what else the user said, each once and none that the profile shows", async () => {
    for (const [questions, expected] of [
      [4, 4],
      [100, 1 + 2 * 4],
    ]) {
      for (const { steps, probes } of await casesOf("ratings", questions)) {
        const asked = probes[0].questions.flatMap(({ input }) => films(input));
        expect(asked).toHaveLength(expected);
        expect(new Set(asked).size).toBe(expected);
        const shown = films(steps.flat());
        expect(shown).toHaveLength(3);
        expect(asked.filter((film) => shown.includes(film))).toEqual([]);
      }
    }
  });

  test("where records have options of their own, only their own questions are asked, with these options", async () => {
    for (const { cluster, probes } of await casesOf("replies", 100)) {
      const { questions } = probes[0];
      expect(questions).toHaveLength(CHUNKS);
      const right = questions.map(({ options = [], answerIndex = -1 }) => decode(options[answerIndex] ?? []));
      expect(right.every((answer) => answer.startsWith(`reply ${cluster.slice(1)}.`))).toBe(true);
      expect(new Set(right).size).toBe(CHUNKS);
    }
  });
});

test("no option is what a training user said, since a model may know that by heart", async () => {
  const options = (await casesOf("replies", 1)).flatMap(({ cluster, probes }) =>
    (probes[0].questions[0].options ?? []).map((ids) => ({ cluster, answer: decode(ids) })),
  );
  expect(options).toHaveLength((USERS / 2) * CHUNKS * 3);
  const users = options.map(({ answer }) => Number(/reply (\d+)\./.exec(answer)?.[1]));
  expect(users.filter((user) => user % 2 === 0)).toEqual([]);
  // The user's own other answers would be right as well.
  for (const [index, { cluster }] of options.entries()) {
    if (index % 3 !== 0) continue;
    const own = users.slice(index, index + 3).filter((user) => `u${user}` === cluster);
    expect(own).toHaveLength(1);
    expect(new Set(options.slice(index, index + 3).map(({ answer }) => answer)).size).toBe(3);
  }
});

test("labels are compared by their probability, texts by the mean of their tokens", async () => {
  // The first label is likelier, but the tokens of the longer one are likelier each.
  const logProbabilities = [-1, -1.4, -9];
  const memory = {
    likelihoods: (asked: readonly unknown[]) => Promise.resolve(asked.map(() => ({ logProbabilities, peakSlots: 1 }))),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const model = { info: { bytesPerSlot: 1 }, createMemory: () => Promise.resolve(memory) } as unknown as LanguageModel;
  for (const [source, chosen] of [
    ["ratings", "like"],
    ["replies", undefined],
  ] as const) {
    const [{ probes, ...rest }] = await casesOf(source, 1);
    const [question] = probes[0].questions;
    const evaluated = { ...rest, steps: [], probes: [{ step: 0, questions: [question] }] };
    const [observed] = await runCase({ model, spec: parseMethodSpec("none"), bosId: undefined }, evaluated);
    const { options = [], answerIndex } = question;
    const lengths = options.map(({ length }) => (chosen === undefined ? length : 1));
    const best = argmax(lengths.map((length, index) => logProbabilities[index] / length));
    if (chosen !== undefined) expect(decode(options[best])).toBe(chosen);
    expect(observed.correct).toBe(best === answerIndex);
  }
});
