/** @file Training with half floats: nearly the gradients of float32, and steps that leave their range teach nothing. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { INITIAL_LOSS_SCALE, nextLossScale, resolvePrecision, type LossScale } from "#precis/train/loss-scale.js";
import { layoutParameters } from "#precis/train/parameters.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";
import { Trainer } from "#precis/train/trainer.js";
import type { DistilledBatch } from "#precis/train/training-batch.js";
import type { TrainingGraphSpec } from "#precis/train/training-graph.js";
import type { RandomModelOptions } from "../reference/random-model.js";
import { cosine, MODES, pairBatch, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

const ROWS = 2;
const SEQ = 40;
/** Least cosine between the gradients of the two precisions, of a tensor and of all of them. */
const LEAST_COSINE = 0.999;
/** Largest difference of the losses, relative. */
const LOSS_TOLERANCE = 1e-3;

/** Loss and gradient in both precisions. */
async function bothPrecisions(tiny: TinyTraining, spec: TrainingGraphSpec, batch: DistilledBatch, lossScale = 1024) {
  const results = [];
  for (const precision of ["fp32", "fp16"] as const) {
    const passes = await tiny.passes({ ...spec, precision });
    results.push(await passes.run(batch, undefined, undefined, lossScale));
    await passes.dispose();
  }
  const [full, half] = results;
  return { full, half };
}

const MODELS: [string, RandomModelOptions][] = [
  ["llama, stored as half floats", { dtype: "float16" }],
  ["qwen3 with norms of heads, stored as bfloat16", { architecture: "qwen3", dtype: "bfloat16" }],
  ["qwen2 with biases, stored as float32", { architecture: "qwen2" }],
  ["phi3 with stacked projections", { architecture: "phi3", tiedHead: false, dtype: "float16" }],
];

describe.each(MODELS)("%s", (_name, options) => {
  let tiny: TinyTraining;
  beforeAll(async () => {
    tiny = await tinyTraining(options);
  });
  afterAll(() => tiny[Symbol.asyncDispose]());

  const variants: [string, ParallelMode, Partial<TrainingGraphSpec>][] = [
    ["concat", MODES["concat, recursive"], {}],
    ["merge with dropout", MODES["merge, recursive"], { dropout: { rate: 0.1, seed: 1 } }],
    ["gist, distilling", MODES["gist"], { distill: { weight: 0.5, temperature: 2 } }],
  ];
  test.each(variants)("%s: loss and gradients are nearly those of float32", async (_variant, mode, changes) => {
    const targets = options.architecture === "phi3" ? (["self_attn.qkv_proj", "self_attn.o_proj"] as const) : undefined;
    const spec = { ...specFor(mode, ROWS, SEQ), ...changes, ...(targets && { targets }) };
    const { full, half } = await bothPrecisions(tiny, spec, pairBatch(mode, ROWS, SEQ));
    expect(Math.abs(half.loss / full.loss - 1)).toBeLessThan(LOSS_TOLERANCE);
    // Not the same either, or nothing was computed with half floats.
    expect(half.loss).not.toBe(full.loss);
    if (spec.distill !== undefined) expect(half.distillLoss / full.distillLoss).toBeCloseTo(1, 2);
    expect(cosine(half.gradient, full.gradient)).toBeGreaterThan(LEAST_COSINE);
    expect(Math.hypot(...half.gradient) / Math.hypot(...full.gradient)).toBeCloseTo(1, 2);
    for (const { name, offset, size } of layoutParameters(tiny.base.config, spec).slices) {
      const part = (values: Float32Array): Float32Array => values.subarray(offset, offset + size);
      expect(cosine(part(half.gradient), part(full.gradient)), name).toBeGreaterThan(LEAST_COSINE);
    }
  });
});

describe("a run", () => {
  const mode = MODES["merge, recursive"];
  const half: TrainingGraphSpec = { ...specFor(mode, ROWS, SEQ), precision: "fp16" };
  let tiny: TinyTraining;
  beforeAll(async () => {
    tiny = await tinyTraining({ dtype: "float16" });
  });
  afterAll(() => tiny[Symbol.asyncDispose]());

  function trainerFrom(lossScale: LossScale): Promise<Trainer<DistilledBatch>> {
    const parts = tiny.parts(half);
    return Trainer.create({ ...parts, state: { ...parts.state, lossScale } });
  }

  test("the factor on the loss does not show in loss and gradient", async () => {
    const passes = await tiny.passes(half);
    const [one, large] = [
      await passes.run(pairBatch(mode, ROWS, SEQ), undefined, undefined, 256),
      await passes.run(pairBatch(mode, ROWS, SEQ), undefined, undefined, 4096),
    ];
    await passes.dispose();
    expect(large.loss).toBe(one.loss);
    expect(cosine(large.gradient, one.gradient)).toBeGreaterThan(0.99999);
    expect(Math.hypot(...large.gradient) / Math.hypot(...one.gradient)).toBeCloseTo(1, 3);
  });

  test("recomputing each layer changes neither loss nor gradient but for rounding", async () => {
    const results = [];
    for (const recompute of [false, true]) {
      const passes = await tiny.passes({ ...half, recompute });
      results.push(await passes.run(pairBatch(mode, ROWS, SEQ)));
      await passes.dispose();
    }
    // The engine for the CPU computes where it may with more digits than asked, and not in both graphs at the same places.
    expect(results[1].loss / results[0].loss).toBeCloseTo(1, 3);
    expect(cosine(results[1].gradient, results[0].gradient)).toBeGreaterThan(0.9999);
  });

  test("a step whose gradient leaves the range is skipped and halves the factor, until steps teach again", async () => {
    await using trainer = await trainerFrom({ factor: 2 ** 24, goodSteps: 7 });
    const start = await trainer.state();
    const batch = pairBatch(mode, ROWS, SEQ);
    const first = await trainer.takeStep([batch], 1e-2);
    expect(first).toMatchObject({ skipped: true, lossScale: 2 ** 24 });
    expect(Number.isFinite(first.gradientNorm)).toBe(false);
    expect(Number.isFinite(first.loss)).toBe(true);
    expect(await trainer.state()).toEqual({ ...start, step: 1, lossScale: { factor: 2 ** 23, goodSteps: 0 } });
    let result = first;
    for (let tries = 0; tries < 20 && result.skipped; tries++) result = await trainer.takeStep([batch], 1e-2);
    expect(result.skipped).toBeUndefined();
    expect(result.gradientNorm).toBeGreaterThan(0);
    const after = await trainer.state();
    expect(after.lossScale).toEqual({ factor: result.lossScale, goodSteps: 1 });
    expect(after.parameters).not.toEqual(start.parameters);
    expect((await trainer.takeStep([batch], 1e-2)).loss).toBeLessThan(first.loss);
  });

  test("one overflow among micro-batches skips the whole step", async () => {
    await using trainer = await trainerFrom({ factor: 2 ** 24, goodSteps: 0 });
    const { parameters } = await trainer.state();
    const result = await trainer.takeStep([pairBatch(mode, ROWS, SEQ), pairBatch(mode, ROWS, SEQ)], 1e-2);
    expect(result.skipped).toBe(true);
    expect((await trainer.state()).parameters).toEqual(parameters);
  });

  test("parameters that are not numbers are not taken for an overflow", async () => {
    const parts = tiny.parts(half);
    await using trainer = await Trainer.create({
      ...parts,
      state: { ...parts.state, parameters: parts.state.parameters.fill(NaN) },
    });
    const result = await trainer.takeStep([pairBatch(mode, ROWS, SEQ)], 1e-2);
    expect(result.loss).toBeNaN();
    expect(result.skipped).toBeUndefined();
  });

  test("learns as float32 does", async () => {
    const losses = [];
    for (const precision of ["fp32", "fp16"] as const) {
      await using trainer = await tiny.trainer({ ...half, precision });
      for (let step = 0; step < 12; step++) await trainer.takeStep([pairBatch(mode, ROWS, SEQ)], 1e-2);
      losses.push(
        (await trainer.evaluate(pairBatch(mode, ROWS, SEQ))).loss,
        (await trainer.evaluate(pairBatch(mode, ROWS, SEQ))).loss,
      );
    }
    const [full, , halfLoss, again] = losses;
    expect(Math.abs(halfLoss - full)).toBeLessThan(0.02 * full);
    expect(again).toBe(halfLoss);
  });
});

test("the factor halves at an overflow, doubles after many good steps, and gives up at 1", () => {
  expect(nextLossScale({ factor: 8, goodSteps: 3 }, false)).toEqual({ factor: 4, goodSteps: 0 });
  expect(nextLossScale({ factor: 1, goodSteps: 3 }, false)).toBeUndefined();
  let scale = INITIAL_LOSS_SCALE;
  let steps = 0;
  while (scale.factor === INITIAL_LOSS_SCALE.factor) {
    scale = nextLossScale(scale, true) as LossScale;
    steps += 1;
  }
  expect(scale).toEqual({ factor: 2 * INITIAL_LOSS_SCALE.factor, goodSteps: 0 });
  expect(steps).toBe(500);
  for (let step = 0; step < 10_000; step++) scale = nextLossScale(scale, true) as LossScale;
  expect(scale.factor).toBe(2 ** 24);
  expect(Math.log2(scale.factor) % 1).toBe(0);
});

test("auto is half floats on WebGPU, where they are faster, and float32 elsewhere", () => {
  const on = (device: "cpu" | "webgpu" | "auto"): string[] =>
    (["fp32", "fp16", "int8", "auto"] as const).map((word) => resolvePrecision(word, device));
  expect(on("cpu")).toEqual(["fp32", "fp16", "int8", "fp32"]);
  expect(on("auto")).toEqual(["fp32", "fp16", "int8", "fp32"]);
  expect(on("webgpu")).toEqual(["fp32", "fp16", "int8", "fp16"]);
});
