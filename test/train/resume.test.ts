/** @file A run that is stopped or killed goes on as if nothing had happened. */

import { appendFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

import { afterAll, beforeAll, expect, test } from "vitest";

import type { Episode } from "#precis/data/episode.js";
import { builtBatches, packedBatches, type BatchOptions } from "#precis/train/batches.js";
import { writeLossPlot } from "#precis/train/loss-plot.js";
import { RunDirectory, type Checkpoint, type MetricsLine } from "#precis/train/run-directory.js";
import { runTraining, type TrainingResult, type TrainingRun as GeneralRun } from "#precis/train/run-training.js";
import { expectError } from "../conformance/expect-error.js";
import type { PaddedBatch } from "#precis/train/padded-batch.js";
import { saveTrainedAdapter } from "#precis/train/save-adapter.js";
import { MODES, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

type TrainingRun = GeneralRun<PaddedBatch>;

const STEPS = 6;
const mode = MODES["merge, recursive"];
let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny[Symbol.asyncDispose]());

function episode(index: number): Episode {
  const step = (first: number): number[] =>
    Array.from({ length: 2 + (index % 3) }, (_, i) => 10 + ((first * 31 + index * 7 + i) % 300));
  const steps = [[1, ...step(1)], step(2)];
  return { id: `e${index}`, source: "test", setting: "conversation", steps, input: [3, 4], target: step(3) };
}

async function* episodes(first: number, count: number): AsyncGenerator<Episode, void, void> {
  for (let index = first; index < first + count; index++) yield episode(index);
}

const BATCHES: BatchOptions = { mode, rows: 2, rowLength: 40, labels: "answer" };

/** A run of six steps of two micro-batches into a folder of its own. */
function plan(changes: Partial<TrainingRun> = {}): TrainingRun {
  const spec = specFor(mode, 2, 40);
  const { state, ...trainer } = tiny.parts(spec);
  const { config, fingerprint } = tiny.base;
  return {
    output: mkdtempSync(join(tiny.scratch, "run-")),
    trainer,
    initialParameters: () => Float32Array.from(state.parameters),
    tokensOf: ({ batch, seq }) => batch * seq,
    schedule: { learningRate: 1e-2, steps: STEPS, warmupRatio: 0.2, kind: "cosine" },
    accumulation: 2,
    openBatches: (skip) => builtBatches(episodes(0, 10_000), BATCHES, skip),
    heldOut: () => packedBatches(episodes(50_000, 3), BATCHES),
    evalEvery: 2,
    saveEvery: 2,
    saveAdapter: (directory, parameters, trainingSummary) =>
      saveTrainedAdapter(directory, config, spec, trainer.layout, parameters, {
        alpha: 8,
        base: fingerprint,
        method: "ccm-merge",
        methodOptions: { recursive: true },
        trainingSummary,
      }),
    options: { seed: 3, rank: 4 },
    ...changes,
  };
}

/** The metrics without what the clock decides. */
function timeless(lines: readonly MetricsLine[]): Partial<MetricsLine>[] {
  return lines.map(({ seconds: _seconds, tokensPerSecond: _rate, ...rest }) => rest);
}

function metricsOf(output: string): MetricsLine[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as MetricsLine);
}

/** The adapter's files; its card without the clock. */
function adapterOf(output: string): unknown[] {
  const file = (name: string): Buffer => readFileSync(join(output, "adapter", name));
  const config = file("adapter_config.json")
    .toString()
    .replace(/"seconds": \d+/, "");
  return [config, file("adapter_model.safetensors"), file("comp_embeddings.safetensors")];
}

let whole: { run: TrainingRun; result: TrainingResult };
beforeAll(async () => {
  const run = plan();
  whole = { run, result: await runTraining(run) };
});

function expectSameAsWhole(output: string, result: TrainingResult): void {
  expect(result).toMatchObject({ finished: true, step: STEPS });
  expect(timeless(result.metrics)).toEqual(timeless(whole.result.metrics));
  expect(timeless(metricsOf(output))).toEqual(timeless(whole.result.metrics));
  expect(adapterOf(output)).toEqual(adapterOf(whole.run.output));
}

test("a run logs every step, evaluates as asked, and writes an adapter", () => {
  const { metrics, finished } = whole.result;
  expect(finished).toBe(true);
  expect(metrics.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(metrics.map(({ evalLoss }) => evalLoss === undefined)).toEqual([true, false, true, false, true, false]);
  expect(metrics[5]).toMatchObject({ tokens: 6 * 2 * 2 * 40 });
  expect(metrics.every(({ loss, gradientNorm = 0, labels }) => loss > 0 && gradientNorm > 0 && labels > 0)).toBe(true);
  expect(adapterOf(whole.run.output)[0]).toMatch(/"lora_alpha": 8[\s\S]*"method": "ccm-merge"/);
});

test("stopped by a signal after three steps and resumed: the same losses and the same adapter, bit for bit", async () => {
  const controller = new AbortController();
  const run = plan({ signal: controller.signal, onStep: ({ step }) => step === 3 && controller.abort() });
  const first = await runTraining(run);
  expect(first).toMatchObject({ finished: false, step: 3 });
  const { signal: _signal, ...rest } = run;
  expectSameAsWhole(run.output, await runTraining(rest));
});

test("stopped by the time limit, run by run, until it is done", async () => {
  const run = plan();
  // No time at all: nothing but the starting state is saved.
  expect(await runTraining({ ...run, timeLimit: 0 })).toMatchObject({ finished: false, step: 0, metrics: [] });
  let result = await runTraining({ ...run, timeLimit: 1e-6 });
  for (let tries = 0; tries < STEPS && !result.finished; tries++)
    result = await runTraining({ ...run, timeLimit: 1e-6 });
  if (!result.finished) result = await runTraining(run);
  expectSameAsWhole(run.output, result);
});

test("a run of a given duration ends by the clock, evaluated and saved, and stays ended", async () => {
  const run = plan();
  const timed = { ...run, schedule: { ...run.schedule, duration: 1e-3 } };
  const result = await runTraining(timed);
  expect(result).toMatchObject({ finished: true, step: 1 });
  expect(result.metrics[0]?.evalLoss).toBeGreaterThan(0);
  expect(adapterOf(run.output)[0]).toContain('"method": "ccm-merge"');
  expect(await runTraining(timed)).toMatchObject({ finished: true, step: 1 });
});

test("with half floats, stopped while the factor on the loss falls: the same steps are skipped, the same curve", async () => {
  const half: Partial<TrainingRun> = { trainer: tiny.parts({ ...specFor(mode, 2, 40), precision: "fp16" }) };
  const run = plan({ ...half, timeLimit: 0 });
  await runTraining(run);
  // Too large a factor for this model, as if gradients had grown.
  const directory = new RunDirectory(run.output);
  const started = (await directory.resume(run.options)) as Checkpoint;
  const tooLarge = { factor: 2 ** 18, goodSteps: 3 };
  await directory.save({ ...started, options: run.options, state: { ...started.state, lossScale: tooLarge } });
  const copy = join(tiny.scratch, "half");
  cpSync(run.output, copy, { recursive: true });
  const straight = await runTraining(plan({ ...half, output: run.output }));
  expect(straight.metrics[0]).toMatchObject({ step: 1, skipped: true, lossScale: 2 ** 18 });
  expect(straight.metrics[0].gradientNorm).toBeUndefined();
  expect(straight.metrics[1]).toMatchObject({ step: 2, lossScale: 2 ** 17 });
  const learned = straight.metrics.filter(({ skipped }) => skipped !== true);
  expect(learned.length).toBeGreaterThan(0);
  expect(learned.every(({ gradientNorm = 0, lossScale = 0 }) => gradientNorm > 0 && lossScale < 2 ** 17)).toBe(true);
  for (const stop of [1, 5]) {
    const controller = new AbortController();
    const onStep = ({ step }: MetricsLine): unknown => step === stop && controller.abort();
    await runTraining(plan({ ...half, output: copy, signal: controller.signal, onStep }));
  }
  const resumed = await runTraining(plan({ ...half, output: copy }));
  expect(timeless(resumed.metrics)).toEqual(timeless(straight.metrics));
  expect(timeless(metricsOf(copy))).toEqual(timeless(straight.metrics));
  expect(adapterOf(copy)).toEqual(adapterOf(run.output));
});

test("killed between two saves: what was lost is done again, the same", async () => {
  const run = plan();
  const copy = join(tiny.scratch, "killed");
  const copyAt = ({ step }: MetricsLine): void => {
    // At this moment the metrics know of step 5, but the state is that of step 4.
    if (step === 5) cpSync(run.output, copy, { recursive: true });
  };
  await runTraining({ ...run, onStep: copyAt });
  expect(metricsOf(copy)).toHaveLength(5);
  expectSameAsWhole(copy, await runTraining(plan({ output: copy })));
});

test("a line of the metrics that was cut off is left out", async () => {
  const run = plan({ timeLimit: 0 });
  await runTraining(run);
  appendFileSync(join(run.output, "metrics.jsonl"), '{"step":1,"loss":3.2,"gradi');
  expectSameAsWhole(run.output, await runTraining({ ...run, timeLimit: undefined }));
});

test("a finished run stays as it is", async () => {
  const before = adapterOf(whole.run.output);
  expectSameAsWhole(whole.run.output, await runTraining(whole.run));
  expect(adapterOf(whole.run.output)).toEqual(before);
});

test.each([
  ["changed", { seed: 4, rank: 4 }, /another "seed"[\s\S]*Use 3/],
  ["added", { seed: 3, rank: 4, decay: 0.5 }, /another "decay"[\s\S]*Use none/],
  ["left out", { seed: 3 }, /another "rank"[\s\S]*Use 4/],
])("an option that was %s is refused by name", async (_what, options, says) => {
  await expectError(runTraining({ ...whole.run, options }), "OPTION_INVALID", says);
});

test("no batch is read beyond those of the last step", async () => {
  let read = 0;
  async function* counted(): ReturnType<typeof builtBatches> {
    for await (const batch of builtBatches(episodes(0, 1000), BATCHES, 0)) {
      read += 1;
      yield batch;
    }
  }
  expect(await runTraining(plan({ openBatches: counted }))).toMatchObject({ finished: true });
  expect(read).toBe(STEPS * 2);
});

test("data that end too early are an error", async () => {
  let closed = false;
  async function* few(): ReturnType<typeof builtBatches> {
    yield* builtBatches(episodes(0, 20), BATCHES, 0);
    closed = true;
  }
  await expectError(runTraining(plan({ openBatches: few })), "INPUT_INVALID", /data ended/);
  expect(closed).toBe(true);
});

test("a loss that is not a number ends the run without saving it", async () => {
  const run = plan();
  const initial = (): Float32Array => run.initialParameters().fill(NaN);
  await expectError(runTraining({ ...run, initialParameters: initial }), "ENGINE_FAILED", /loss NaN/);
  expect(existsSync(join(run.output, "state.safetensors"))).toBe(false);
});

test("an error while training closes the batches' source", async () => {
  let closed = false;
  async function* source(): ReturnType<typeof builtBatches> {
    try {
      yield* builtBatches(episodes(0, 1000), BATCHES, 0);
    } finally {
      closed = true;
    }
  }
  const onStep = (): never => {
    throw new Error("stop");
  };
  await expect(runTraining(plan({ openBatches: source, onStep }))).rejects.toThrow("stop");
  expect(closed).toBe(true);
});

test("the loss plot is an SVG with both curves, even of a run without steps", async () => {
  const file = join(tiny.scratch, "loss.svg");
  await writeLossPlot(file, whole.result.metrics);
  const svg = readFileSync(file, "utf8");
  expect(svg).toMatch(/^<svg [\s\S]*<\/svg>\n$/);
  const [training, held] = [...svg.matchAll(/<path d="([^"]*)"/g)].map(([, path]) => path.split(/[ML]/).length - 1);
  expect([training, held]).toEqual([6, 3]);
  expect(svg).not.toMatch(/NaN|undefined|Infinity/);
  await writeLossPlot(file, []);
  expect(readFileSync(file, "utf8")).not.toMatch(/NaN|undefined|Infinity/);
  rmSync(file);
});
