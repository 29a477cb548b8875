/** @file Whole evaluations of a tiny random model on tiny data. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { evalCommand } from "#precis/cli/commands/eval.js";
import { conversationEpisode } from "#precis/data/settings/conversation.js";
import { parseMethodSpec } from "#precis/eval/method-spec.js";
import { renderReport } from "#precis/eval/report/html.js";
import { formatEstimate } from "#precis/eval/report/wording.js";
import type { Estimate } from "#precis/eval/bootstrap.js";
import type { EvaluationResult, MethodResult } from "#precis/eval/result.js";
import { evaluate, type EvaluationOptions } from "#precis/eval/runner.js";
import { createFixture, type Fixture } from "../conformance/fixtures.js";
import { dialogue, jsonLines, tinyDataFolder, tinyText } from "../data/tiny-data.js";
import { writeFiles } from "../weights/folders.js";

let fixture: Fixture;
let data: Awaited<ReturnType<typeof tinyDataFolder>>;

beforeAll(async () => {
  [fixture, data] = await Promise.all([createFixture(), tinyDataFolder()]);
});

afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  await data[Symbol.asyncDispose]();
});

function run(
  evaluation: EvaluationOptions["evaluation"],
  methods: readonly string[],
  more: Partial<EvaluationOptions> = {},
): Promise<EvaluationResult> {
  const { model } = fixture;
  const specs = methods.map(parseMethodSpec);
  return evaluate({ evaluation, model, dataDir: data.path, methods: specs, replicates: 100, ...more });
}

function method(result: EvaluationResult, label: string): MethodResult {
  return result.methods.find((candidate) => candidate.label === label) as MethodResult;
}

describe("conversation", () => {
  test("full context is one pass over the dialogue; sizes are those of the memories", async () => {
    const concat = `ccm-concat:${fixture.adapter.directory}`;
    const result = await run("conversation", ["none", "full", concat], { only: ["open"], limit: 2, steps: [1, 4] });
    expect(result.sources).toEqual({ open: 2 });
    const { pieces } = await tinyText();
    const record = (number: number): Parameters<typeof conversationEpisode>[1] => ({
      id: "",
      split: undefined,
      turns: (dialogue("open", number, 8, "test").turns as { role: string; text: string }[]).map(({ role, text }) => ({
        role,
        content: text,
      })),
    });
    // Which dialogues are drawn is the seed's choice, so the possible ones are all worked out.
    const sums = new Map<number, { nll: number; tokens: number }>();
    for (const number of [0, 1, 2, 3]) {
      const { steps, input, target } =
        conversationEpisode(pieces, record(number), "open", { steps: 4 }) ?? expect.fail();
      const memory = await fixture.memory({ method: "full" });
      await memory.append(steps.flat());
      const answer = target.slice(0, -1);
      const [{ logProbabilities }] = await memory.likelihoods([{ input, continuations: [answer] }]);
      sums.set(number, { nll: -logProbabilities[0], tokens: answer.length });
      await memory.dispose();
    }
    const possible = [...sums.values()].flatMap((a, i) =>
      [...sums.values()].slice(i + 1).map((b) => Math.exp((a.nll + b.nll) / (a.tokens + b.tokens))),
    );
    const found = method(result, "full").points[1].metrics.perplexity?.value ?? NaN;
    expect(Math.min(...possible.map((value) => Math.abs(value - found) / value))).toBeLessThan(1e-4);

    const [first, last] = method(result, "full").points;
    expect([first.step, last.step]).toEqual([1, 4]);
    expect(last.memory.slots).toBe(last.memory.contextTokens);
    expect(last.memory.bytes).toBe(last.memory.slots * fixture.model.info.bytesPerSlot);
    expect(last.memory.peakSlots).toBeGreaterThan(last.memory.slots);
    const compressed = method(result, concat).points.map(({ memory }) => memory.slots);
    expect(compressed).toEqual([fixture.adapter.compTokens, 4 * fixture.adapter.compTokens]);
    expect(method(result, "none").points.map(({ memory }) => memory.slots)).toEqual([0, 0]);
    expect(method(result, "full").points[1].gapClosed.perplexity?.value).toBeCloseTo(1, 9);
    expect(method(result, "none").points[1].gapClosed.perplexity?.value).toBeCloseTo(0, 9);
  });

  test("every method of one run sees the same cases; another seed draws others; equal seeds repeat", async () => {
    const settings = { only: ["open"], limit: 2, steps: [2] };
    const values = async (seed: number): Promise<unknown> => {
      const { methods } = await run("conversation", ["none", "full"], { ...settings, seed });
      return methods.map(({ points }) => points);
    };
    const once = await values(1);
    expect(await values(1)).toEqual(once);
    const others = await Promise.all([2, 3, 4].map(values));
    expect(others.some((other) => JSON.stringify(other) !== JSON.stringify(once))).toBe(true);
  });

  test("a shuffled memory holds another dialogue", async () => {
    const { methods } = await run("conversation", ["full", "full,shuffled=true"], {
      only: ["open"],
      limit: 4,
      steps: [4],
    });
    const [full, shuffled] = methods.map(({ points }) => points[0].metrics.perplexity?.value);
    expect(shuffled).not.toBeCloseTo(full ?? NaN, 6);
    expect(methods[1].shuffled).toBe(true);
  });
});

test("contexts fill the model and no more, also those of other cases", async () => {
  await using small = await createFixture({}, { config: { max_position_embeddings: 300 } });
  const folder = join(small.scratch, "tasks");
  const examples = (input: string): string =>
    jsonLines(
      Array.from({ length: 80 }, (_, number) => ({ input: `${input} ${number}`, output: "a", options: ["a", "bb"] })),
    );
  await writeFiles(folder, {
    "icl/tasks.json": { meta_train: [], meta_test: ["brief", "wordy"] },
    "icl/brief.jsonl": examples("x"),
    "icl/wordy.jsonl": examples("a question of many words that takes a good part of what the model can take"),
  });
  const { methods } = await evaluate({
    evaluation: "multi-task",
    model: small.model,
    dataDir: folder,
    methods: ["full", "full,shuffled=true"].map(parseMethodSpec),
    steps: [40],
    limit: 4,
    replicates: 10,
  });
  for (const { points } of methods) {
    expect(points[0].memory.peakSlots).toBeLessThanOrEqual(300);
    expect(points[0].memory.peakSlots).toBeGreaterThan(200);
  }
});

test("multi-task: the held-out tasks, each of which counts the same", async () => {
  const result = await run("multi-task", ["none", "full"], { limit: 6, steps: [1, 3] });
  expect(result.sources).toEqual({ parity: 2, vowel: 2 });
  for (const { points } of result.methods) {
    for (const { questions, metrics, bySource } of points) {
      expect(questions).toBe(12);
      const mean = ((bySource.parity.accuracy ?? NaN) + (bySource.vowel.accuracy ?? NaN)) / 2;
      expect(metrics.accuracy?.value).toBeCloseTo(mean, 12);
    }
  }
  // Without memory the number of demonstrations makes no difference.
  const [one, three] = method(result, "none").points;
  expect(three.metrics).toEqual(one.metrics);
  const tasks = (await run("multi-task", ["none"], { limit: 2, steps: [1], only: ["vowel"] })).sources;
  expect(tasks).toEqual({ vowel: 1 });
});

test("personalization: held-out users, accuracy and the error of ratings", async () => {
  const result = await run("personalization", ["none", "full"], { limit: 5, steps: [2, 6] });
  expect(result.sources).toEqual({ movielens_like: 5, taste: 5 });
  for (const { points } of result.methods) {
    for (const { bySource, metrics } of points) {
      expect(bySource.taste.mae).toBeDefined();
      expect(bySource.movielens_like.mae).toBeUndefined();
      expect(metrics.mae?.value).toBe(bySource.taste.mae);
      expect(metrics.mae?.value ?? NaN).toBeGreaterThanOrEqual(1 - (bySource.taste.accuracy ?? NaN) - 1e-9);
    }
  }
});

test("streaming: the perplexity of the first tokens, and a curve", async () => {
  const result = await run("streaming", ["sliding-window,window=16", "full"], { steps: [100, 300] });
  expect(result.sources).toEqual({ "Held Out": 1 });
  const full = method(result, "full");
  const memory = await fixture.memory({ method: "full" });
  const { tokenizer } = await tinyText();
  const text = Array.from({ length: 400 }, (_, word) => `held out${word}`).join(" ");
  const nll = await memory.score([tokenizer.bosId ?? 0, ...tokenizer.encode(text)].slice(0, 301));
  for (const { step, metrics } of full.points) {
    const sum = nll.subarray(0, step).reduce((total, value) => total + value, 0);
    expect(metrics.perplexity?.value).toBeCloseTo(Math.exp(sum / step), 2);
  }
  const windowed = method(result, "sliding-window,window=16");
  expect(windowed.points.map(({ memory: { slots, peakSlots } }) => [slots, peakSlots])).toEqual([
    [16, 16],
    [16, 16],
  ]);
  expect(windowed.points[0].memory.fullBytes).toBe(100 * fixture.model.info.bytesPerSlot);
  expect(windowed.curve?.map(({ position }) => position)).toEqual([300]);
});

describe("what cannot be evaluated", () => {
  test.each<[string, string[], Partial<EvaluationOptions>, string]>([
    ["no methods", [], {}, "OPTION_INVALID"],
    ["a method twice", ["full", "full"], {}, "OPTION_INVALID"],
    ["an unknown option", ["full,window=3"], {}, "OPTION_INVALID"],
    ["a missing adapter", ["ccm-concat"], {}, "ADAPTER_MISMATCH"],
    ["no data", ["full"], { only: ["nothing"] }, "OPTION_INVALID"],
    ["dialogues that are too short", ["full"], { steps: [40] }, "OPTION_INVALID"],
    ["steps that are none", ["full"], { steps: [1.5] }, "OPTION_INVALID"],
  ])("%s", async (_name, methods, more, code) => {
    await expect(run("conversation", methods, more)).rejects.toMatchObject({ code });
  });

  test("a stream has nothing to shuffle", async () => {
    const shuffled = run("streaming", ["full,shuffled=true"], { steps: [50] });
    await expect(shuffled).rejects.toMatchObject({ code: "OPTION_INVALID" });
  });

  test("an abort ends it", async () => {
    const abort = new AbortController();
    const progress: number[] = [];
    const onProgress = ({ done }: { done: number }): void => {
      progress.push(done);
      if (done === 1) abort.abort();
    };
    const aborted = run("conversation", ["full"], { steps: [1], signal: abort.signal, onProgress });
    await expect(aborted).rejects.toMatchObject({ code: "ABORTED" });
    expect(progress).toEqual([0, 1]);
  });
});

describe("reports", () => {
  test("tables and charts hold the numbers, and text is escaped", async () => {
    const conversation = await run("conversation", ["none", "full"], { only: ["open"], limit: 2, steps: [1, 2] });
    const streaming = await run("streaming", ["sliding-window,window=16"], { steps: [100] });
    (conversation.methods[0] as MethodResult).label = "<none> & co";
    const page = renderReport([conversation, streaming]);
    for (const { points } of conversation.methods) {
      for (const { metrics } of points) {
        expect(page).toContain(`<td>${formatEstimate("perplexity", metrics.perplexity as Estimate)}</td>`);
      }
    }
    expect(page).toContain("&lt;none&gt; &amp; co");
    expect(page).not.toContain("<none>");
    expect(page).not.toMatch(/NaN|undefined|Infinity/);
    // Two charts for each, and the curve of the stream.
    expect(page.match(/<figure>/g)).toHaveLength(5);
    expect(page).not.toMatch(/src=|href=|@import/);
  });
});

test("the command prints JSON or a table, and writes the report", async () => {
  const printed: string[] = [];
  const spy = vi.spyOn(process.stdout, "write").mockImplementation((text) => printed.push(String(text)) > 0);
  const report = join(fixture.scratch, "report.html");
  const model = fixture.files.directory;
  const shared = ["conversation", "--data", data.path, "--model", model, "--only", "open", "--steps", "1,2"];
  try {
    await evalCommand().parseAsync([...shared, "--limit", "1", "--json", "--report", report], { from: "user" });
    const result = JSON.parse(printed.join("")) as EvaluationResult;
    expect(result.methods.map(({ label }) => label)).toEqual(["none", "full"]);
    expect(await readFile(report, "utf8")).toContain("<svg");
    printed.length = 0;
    const methods = ["--method", "full", "--method", `ccm-concat:${fixture.adapter.directory}`];
    await evalCommand().parseAsync([...shared, "--limit", "1", ...methods], { from: "user" });
    expect(printed.join("")).toMatch(/METHOD +STEP +PERPLEXITY +SLOTS/);
    expect(printed.join("")).toMatch(/full +2 /);
  } finally {
    spy.mockRestore();
  }
});
