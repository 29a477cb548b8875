/** @file The optimiser against a reference in double precision, the learning rate over a run, and starting values. */

import { tmpdir } from "node:os";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { EngineSession, floatTensor } from "#precis/runtime/engine-session.js";
import {
  buildOptimizerGraph,
  momentCorrections,
  OPTIMIZER_IO,
  type OptimizerOptions,
} from "#precis/train/optimizer-graph.js";
import { initialParameters, layoutParameters } from "#precis/train/parameters.js";
import { learningRateAt, progressAt } from "#precis/train/schedule.js";
import { difference } from "../golden/compare.js";
import { numbers } from "../graph/run-graph.js";
import { MODES, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

/** State of the reference. */
interface Reference {
  parameters: Float64Array;
  first: Float64Array;
  second: Float64Array;
}

/** One AdamW step as PyTorch's documentation defines it, after clipping by the global norm. Returns the norm. */
function referenceStep(
  state: Reference,
  gradient: readonly number[],
  step: number,
  rate: number,
  options: Required<OptimizerOptions>,
): number {
  const { beta1, beta2, epsilon, weightDecay, clipNorm } = options;
  const norm = Math.hypot(...gradient);
  const factor = norm > clipNorm ? clipNorm / norm : 1;
  gradient.forEach((value, i) => {
    const clipped = value * factor;
    state.parameters[i] *= 1 - rate * weightDecay;
    state.first[i] = beta1 * state.first[i] + (1 - beta1) * clipped;
    state.second[i] = beta2 * state.second[i] + (1 - beta2) * clipped ** 2;
    const mean = state.first[i] / (1 - beta1 ** step);
    const variance = state.second[i] / (1 - beta2 ** step);
    state.parameters[i] -= (rate * mean) / (Math.sqrt(variance) + epsilon);
  });
  return norm;
}

const DEFAULTS = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, clipNorm: 1 };

describe("AdamW", () => {
  test.each([
    ["the defaults", {}],
    ["weight decay", { weightDecay: 0.1 }],
    ["other moments and a higher clip", { beta1: 0.8, beta2: 0.95, epsilon: 1e-3, clipNorm: 4 }],
  ])("equals a reference in double precision: %s", async (_name, options) => {
    const size = 24;
    await using session = await EngineSession.create(() => buildOptimizerGraph(size, options), {
      weightsFolder: tmpdir(),
      device: "cpu",
    });
    const state: Reference = {
      parameters: Float64Array.from(numbers(size, 1)),
      first: new Float64Array(size),
      second: new Float64Array(size),
    };
    let [parameters, first, second] = [state.parameters, state.first, state.second].map((values) =>
      Float32Array.from(values),
    );
    const norms: number[] = [];
    for (let step = 1; step <= 8; step++) {
      const rate = 0.05 / step;
      // Long gradients, which are clipped, and short ones.
      const gradient = numbers(size, step).map((value) => value * (step % 2 === 0 ? 0.05 : 1));
      const norm = referenceStep(state, gradient, step, rate, { ...DEFAULTS, ...options });
      norms.push(norm);
      const [correction1, correction2] = momentCorrections(step, options);
      const vector = (values: Float32Array) => floatTensor(values, [size]);
      const scalar = (value: number) => floatTensor(Float32Array.of(value), [1]);
      const names = [OPTIMIZER_IO.newParameters, OPTIMIZER_IO.newFirstMoment, OPTIMIZER_IO.newSecondMoment];
      const outputs = await session.run(
        {
          [OPTIMIZER_IO.parameters]: vector(parameters),
          [OPTIMIZER_IO.firstMoment]: vector(first),
          [OPTIMIZER_IO.secondMoment]: vector(second),
          // As if summed over four micro-batches.
          [OPTIMIZER_IO.gradient]: vector(Float32Array.from(gradient, (value) => 4 * value)),
          [OPTIMIZER_IO.gradientScale]: scalar(1 / 4),
          [OPTIMIZER_IO.learningRate]: scalar(rate),
          [OPTIMIZER_IO.correction1]: scalar(correction1),
          [OPTIMIZER_IO.correction2]: scalar(correction2),
        },
        [...names, OPTIMIZER_IO.gradientNorm],
      );
      [parameters, first, second] = names.map((name) => Float32Array.from(outputs[name].data as Float32Array));
      expect(Number(outputs[OPTIMIZER_IO.gradientNorm].data[0])).toBeCloseTo(norm, 4);
      expect(difference(parameters, state.parameters)).toBeLessThan(5e-6);
    }
    const { clipNorm } = { ...DEFAULTS, ...options };
    expect([Math.min(...norms) < clipNorm, Math.max(...norms) > clipNorm]).toEqual([true, true]);
  });
});

describe("learning rate", () => {
  const schedule = { learningRate: 1, steps: 100, warmupRatio: 0.1, kind: "cosine" as const };

  test("rises linearly, then follows half a cosine down to zero", () => {
    expect(learningRateAt(0, schedule)).toBeCloseTo(0.1);
    expect(learningRateAt(9, schedule)).toBeCloseTo(1);
    expect(learningRateAt(10, schedule)).toBeCloseTo(1);
    expect(learningRateAt(55, schedule)).toBeCloseTo(0.5);
    expect(learningRateAt(99, schedule)).toBeLessThan(0.001);
    expect(learningRateAt(100, schedule)).toBeCloseTo(0);
  });

  test("stays constant after the warm-up on request, and needs no warm-up", () => {
    expect([4, 10, 99].map((step) => learningRateAt(step, { ...schedule, kind: "constant" }))).toEqual([0.5, 1, 1]);
    expect(learningRateAt(0, { ...schedule, warmupRatio: 0 })).toBe(1);
    expect(learningRateAt(0, { learningRate: 1, steps: 1, warmupRatio: 0.03, kind: "cosine" })).toBe(1);
  });

  test("follows the time in a run of a given duration, whatever the steps", () => {
    const timed = { ...schedule, duration: 200 };
    for (const step of [0, 7, 1000]) {
      const rates = [0, 10, 20, 110, 200, 300].map((seconds) => learningRateAt(step, timed, seconds));
      for (const [index, rate] of [0, 0.5, 1, 0.5, 0, 0].entries()) expect(rates[index]).toBeCloseTo(rate);
    }
    expect(progressAt(50, 0, schedule)).toBe(0.5);
    expect([0, 50, 400].map((seconds) => progressAt(99, seconds, timed))).toEqual([0, 0.25, 1]);
  });
});

describe("starting values", () => {
  let tiny: TinyTraining;
  beforeAll(async () => {
    tiny = await tinyTraining();
  });
  afterAll(() => tiny[Symbol.asyncDispose]());

  test("A is uniform within 1/√in, B zero, and COMP k the mean of rows k, k + N, k + 2N, …", () => {
    const { config, embedding } = tiny.base;
    const spec = { ...specFor(MODES["concat, recursive"], 1, 8), compTokens: 3 };
    const layout = layoutParameters(config, spec);
    const values = initialParameters(config, layout, 7, embedding);
    for (const { name, shape, offset, size } of layout.slices) {
      const slice = values.subarray(offset, offset + size);
      if (name.startsWith("lora_b.")) expect(slice.every((value) => value === 0)).toBe(true);
      if (!name.startsWith("lora_a.")) continue;
      const bound = 1 / Math.sqrt(shape[1]);
      const largest = Math.max(...slice.map(Math.abs));
      expect(largest).toBeLessThanOrEqual(bound);
      expect(largest).toBeGreaterThan(0.9 * bound);
      // The variance of a uniform distribution.
      expect(slice.reduce((sum, value) => sum + value ** 2, 0) / size).toBeCloseTo(bound ** 2 / 3, 2);
    }
    const comp = layout.slices.find(({ name }) => name === "comp_embeddings");
    for (let k = 0; k < 3; k++) {
      const rows = Array.from({ length: config.vocabSize }, (_, id) => id)
        .filter((id) => id % 3 === k)
        .map(embedding);
      const mean = Array.from(
        { length: config.hiddenSize },
        (_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length,
      );
      const start = (comp?.offset ?? 0) + k * config.hiddenSize;
      expect(difference(values.subarray(start, start + config.hiddenSize), mean)).toBeLessThan(1e-6);
    }
  });

  test("the same seed gives the same values, another seed others", () => {
    const { config, embedding } = tiny.base;
    const layout = layoutParameters(config, specFor(MODES["concat, recursive"], 1, 8));
    const [a, b, c] = [7, 7, 8].map((seed) => initialParameters(config, layout, seed, embedding));
    expect(b).toEqual(a);
    expect(c).not.toEqual(a);
  });
});
