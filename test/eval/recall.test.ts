/** @file The recall evaluation makes its own facts, asks for each at its distance, and repeats by seed. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseMethodSpec } from "#precis/eval/method-spec.js";
import { evaluate } from "#precis/eval/runner.js";
import { recallTask } from "#precis/eval/tasks/recall.js";
import type { EvaluationCase } from "#precis/eval/case.js";
import { createFixture, type Fixture } from "../conformance/fixtures.js";
import { tinyText, type TinyText } from "../data/tiny-data.js";

let fixture: Fixture;
let text: TinyText;

beforeAll(async () => {
  [fixture, text] = await Promise.all([createFixture(), tinyText()]);
});

afterAll(() => fixture[Symbol.asyncDispose]());

function cases(seed: number, steps: readonly number[] = [1, 3, 8], maxPositions = 4000): Promise<EvaluationCase[]> {
  const { pieces } = text;
  return recallTask.buildCases({
    dataDir: "",
    pieces,
    maxPositions,
    steps,
    limit: 20,
    seed,
    maxOptions: 12,
    questions: 1,
  });
}

describe("cases", () => {
  test("a question of distance d asks for the fact that came d steps before the end", async () => {
    const { tokenizer } = text;
    const decode = (ids: readonly number[]): string => tokenizer.decode(ids);
    for (const { steps, probes } of await cases(1)) {
      expect(steps).toHaveLength(8);
      expect(probes.map(({ step, point }) => [step, point])).toEqual([
        [8, 1],
        [8, 3],
        [8, 8],
      ]);
      const context = steps.map(decode);
      for (const { point = NaN, questions } of probes) {
        const [{ input, options = [], answerIndex = -1 }] = questions;
        const asked = /What does (\w+) have\?/.exec(decode(input))?.[1] ?? expect.fail();
        const said = options.map(decode);
        expect(new Set(said).size).toBe(4);
        // The fact is in one step only, and that is the one that the distance says.
        expect(context.map((step) => step.includes(said[answerIndex])).indexOf(true)).toBe(8 - point);
        expect(context.filter((step) => step.includes(`does ${asked} have`))).toHaveLength(1);
        // The others are facts of somebody else, so knowing which values there were is not enough.
        for (const option of said) expect(option).toMatch(new RegExp(`^${asked} has a \\w+\\.$`));
        const values = said.map((option) => option.split(" ").at(-1) as string);
        for (const value of values) expect(context.some((step) => step.includes(value))).toBe(true);
      }
    }
  });

  test("equal seeds repeat, others differ; answers lie at every place", async () => {
    expect(await cases(1)).toEqual(await cases(1));
    expect(await cases(2)).not.toEqual(await cases(1));
    const places = (await cases(1)).flatMap(({ probes }) => probes.map(({ questions }) => questions[0].answerIndex));
    expect(new Set(places).size).toBe(4);
  });

  test("distances that cannot be are refused", async () => {
    await expect(cases(1, [0])).rejects.toMatchObject({ code: "OPTION_INVALID" });
    await expect(cases(1, [1000])).rejects.toMatchObject({ code: "OPTION_INVALID" });
    await expect(cases(1, [8], 100)).rejects.toMatchObject({ code: "OPTION_INVALID" });
  });
});

test("results stand by distance, under one memory of all facts; none and shuffled are anchors", async () => {
  const labels = ["none", "full", "full,shuffled=true", "sliding-window,window=30"];
  const methods = labels.map((label) => parseMethodSpec(label));
  const result = await evaluate({ evaluation: "recall", model: fixture.model, methods, steps: [1, 4], limit: 30 });
  expect(result.sources).toEqual({ recall: 30 });
  for (const { points, label } of result.methods) {
    expect(points.map(({ step, questions }) => [step, questions])).toEqual([
      [1, 30],
      [4, 30],
    ]);
    expect(points[0].memory.slots).toBe(points[1].memory.slots);
    // A random model knows nothing, so whatever it holds it must be near chance.
    if (label === "none") expect(points[0].metrics.accuracy?.value ?? NaN).toBeLessThan(0.6);
  }
  expect(result.methods[0].points[0].memory.slots).toBe(0);
  expect(result.methods[2].controlOf).toBe("full");
});
