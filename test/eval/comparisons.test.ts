/** @file What makes methods comparable: equal cases on any number of workers, equal budgets, controls, paired intervals. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseMethodSpec } from "#precis/eval/method-spec.js";
import type { EvaluationResult, MethodResult } from "#precis/eval/result.js";
import { evaluate, type EvaluationOptions } from "#precis/eval/runner.js";
import { withControls } from "#precis/eval/shuffled.js";
import { loadModel, type LanguageModel } from "#precis/index.js";
import { createFixture, type Fixture } from "../conformance/fixtures.js";
import { tinyDataFolder } from "../data/tiny-data.js";

let fixture: Fixture;
let helpers: LanguageModel[];
let data: Awaited<ReturnType<typeof tinyDataFolder>>;
let concat: string;
let streamingCcm: string;

beforeAll(async () => {
  [fixture, data] = await Promise.all([createFixture(), tinyDataFolder()]);
  const load = { device: "cpu", threads: 1 } as const;
  helpers = await Promise.all([1, 2].map(() => loadModel(fixture.files.directory, load)));
  concat = `ccm-concat:${fixture.adapter.directory}`;
  streamingCcm = `streaming-ccm:${fixture.adapter.directory}`;
});

afterAll(async () => {
  await Promise.all(helpers.map((model) => model.dispose()));
  await fixture[Symbol.asyncDispose]();
  await data[Symbol.asyncDispose]();
});

function run(
  evaluation: EvaluationOptions["evaluation"],
  methods: readonly string[],
  more: Partial<EvaluationOptions> = {},
): Promise<EvaluationResult> {
  const specs = methods.map((text) => parseMethodSpec(text));
  return evaluate({
    evaluation,
    model: fixture.model,
    dataDir: data.path,
    methods: specs,
    replicates: 100,
    ...more,
  });
}

function withoutTimes({ methods, ...rest }: EvaluationResult): unknown {
  return { ...rest, methods: methods.map((each) => ({ ...each, seconds: 0 })) };
}

function method(result: EvaluationResult, label: string): MethodResult {
  return result.methods.find((candidate) => candidate.label === label) as MethodResult;
}

describe("several workers", () => {
  test.each<[EvaluationOptions["evaluation"], Partial<EvaluationOptions>]>([
    ["conversation", { limit: 3, steps: [1, 3] }],
    ["multi-task", { limit: 8, steps: [1, 3] }],
    ["personalization", { limit: 3, steps: [2] }],
    ["streaming", { steps: [50, 150] }],
  ])("%s gives what one worker gives", async (evaluation, more) => {
    const methods = evaluation === "streaming" ? ["full", "sliding-window,window=16"] : ["none", "full", concat];
    const alone = await run(evaluation, methods, more);
    const together = await run(evaluation, methods, { ...more, helpers });
    expect(withoutTimes(together)).toEqual(withoutTimes(alone));
  });

  test("an abort ends the work of all", async () => {
    const abort = new AbortController();
    const onProgress = ({ done }: { done: number }): void => {
      if (done === 2) abort.abort();
    };
    const aborted = run("conversation", ["full"], { steps: [1], helpers, signal: abort.signal, onProgress });
    await expect(aborted).rejects.toMatchObject({ code: "ABORTED" });
  });
});

describe("controls", () => {
  test.each<EvaluationOptions["evaluation"]>(["conversation", "multi-task", "personalization"])(
    "%s: every method but none is also measured with another sample's memory",
    async (evaluation) => {
      const specs = withControls(["none", "full", concat].map((text) => parseMethodSpec(text)));
      const result = await run(evaluation, [], { methods: specs, limit: 4, steps: [2] });
      expect(result.methods.map(({ label, controlOf }) => [label, controlOf])).toEqual([
        ["none", undefined],
        ["full", undefined],
        ["full,shuffled=true", "full"],
        [concat, undefined],
        [`${concat},shuffled=true`, concat],
      ]);
      const { primary } = result;
      const own = method(result, concat).points[0];
      const control = method(result, `${concat},shuffled=true`).points[0];
      expect(control.memory.slots).toBeGreaterThan(0);
      const apart = own.differences[`${concat},shuffled=true`][primary] ?? expect.fail();
      expect(apart.value).toBeCloseTo(
        (own.metrics[primary]?.value ?? NaN) - (control.metrics[primary]?.value ?? NaN),
        9,
      );
      expect(apart.low).toBeLessThanOrEqual(apart.high);
    },
  );

  test("ratings have a gap of their own, and both gaps have intervals", async () => {
    const { methods } = await run("personalization", ["none", "full", concat], { limit: 10, steps: [6] });
    for (const { points } of methods) {
      for (const name of ["accuracy", "mae"] as const) {
        const [floor, own, ceiling] = [methods[0], { points }, methods[1]].map(
          (each) => each.points[0].metrics[name]?.value ?? NaN,
        );
        const gap = points[0].gapClosed[name]?.value ?? NaN;
        if (ceiling !== floor) expect(gap).toBeCloseTo((own - floor) / (ceiling - floor), 9);
      }
    }
    expect(methods[1].points[0].gapClosed.accuracy).toEqual({ value: 1, low: 1, high: 1 });
  });
});

describe("streams under one budget", () => {
  test("every method holds exactly as many KV positions at most, at every length", async () => {
    const labels = [
      "sliding-window,budget=24",
      "streaming,budget=24,evict=4,sink=2",
      `${streamingCcm},budget=24,compress=8,memory=4`,
    ];
    const result = await run("streaming", labels, { steps: [100, 200, 300] });
    for (const label of labels) {
      expect(method(result, label).points.map(({ memory }) => memory.peakSlots)).toEqual([24, 24, 24]);
    }
  });

  test("differences are paired, at every length and on every stretch", async () => {
    const other = ["sliding-window,window=16", "sliding-window,window=64"];
    const { methods: found } = await run("streaming", other, { steps: [100, 1200] });
    for (const [index, { points, curve = [] }] of found.entries()) {
      const against = other[1 - index];
      expect(curve.map(({ position }) => position)).toEqual([1000, 1200]);
      for (const { differences, metrics } of points) {
        const place = points.findIndex((point) => point.differences === differences);
        const there = found[1 - index].points[place].metrics.perplexity?.value ?? NaN;
        expect(differences[against].perplexity?.value).toBeCloseTo((metrics.perplexity?.value ?? NaN) - there, 9);
      }
      for (const { differences, perplexity } of curve) {
        expect(perplexity.low).toBeLessThanOrEqual(perplexity.high);
        expect(Object.keys(differences)).toEqual([against]);
      }
    }
    // The first stretch and the rest make the whole.
    const [{ points, curve = [] }] = found;
    const whole = Math.log(points[1].metrics.perplexity?.value ?? NaN);
    const parts = curve.map(({ perplexity }) => Math.log(perplexity.value));
    expect(whole).toBeCloseTo((1000 * parts[0] + 200 * parts[1]) / 1200, 9);
  });

  test.each([
    ["full,budget=100", "OPTION_INVALID"],
    ["streaming,budget=2", "OPTION_INVALID"],
  ])("%s is refused", async (label, code) => {
    await expect(run("streaming", [label], { steps: [50] })).rejects.toMatchObject({ code });
  });

  test("a stream has nothing to shuffle, which is told before any method is read", async () => {
    const progress: unknown[] = [];
    const shuffled = run("streaming", ["full", "full,shuffled=true"], {
      steps: [50],
      onProgress: (each) => progress.push(each),
    });
    await expect(shuffled).rejects.toMatchObject({ code: "OPTION_INVALID" });
    expect(progress).toEqual([]);
  });
});
