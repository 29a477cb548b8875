/** @file Recurrent summaries: training measures what the memory does, and its gradient is the true one or cut where asked. */

import { mkdtempSync } from "node:fs";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { floatTensor } from "#precis/runtime/engine-session.js";
import { parametersOfAdapter } from "#precis/train/adapter-start.js";
import type { Precision } from "#precis/train/loss-scale.js";
import { initialParameters, layoutParameters, type ParameterLayout } from "#precis/train/parameters.js";
import { IGNORED_LABEL } from "#precis/train/parallel-layout.js";
import { crosses, RecurrentPass } from "#precis/train/recurrent-pass.js";
import { saveTrainedAdapter } from "#precis/train/save-adapter.js";
import type { SegmentGraphSpec } from "#precis/train/segment-graph.js";
import {
  promptSlots,
  segmentSamples,
  segmentWidth,
  type SegmentShape,
  type SegmentText,
} from "#precis/train/segments.js";
import { Trainer } from "#precis/train/trainer.js";
import { loadAdapter } from "#precis/weights/adapter.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { readDecoderModel, type DecoderModel } from "../reference/decoder.js";
import { adapterKey } from "../reference/random-model.js";
import { normalGenerator } from "../reference/random-tensors.js";
import { answerLogits, summaries, type RecurrentAdapter } from "../reference/recurrent.js";
import { IDS, openTraining, relativeError, specFor, MODES, type TinyTraining } from "./tiny-training.js";

/** Steps, input and target of a sample. */
interface Sample {
  steps: number[][];
  input: number[];
  target: number[];
}

const SAMPLES: readonly Sample[] = [
  {
    steps: [[1, ...textIds(6)], textIds(3, 1), textIds(9, 2), textIds(5, 3)],
    input: textIds(4, 4),
    target: textIds(6, 5),
  },
  { steps: [[1, ...textIds(4, 6)]], input: textIds(1, 7), target: textIds(9, 8) },
  { steps: [], input: [1, ...textIds(2, 9)], target: textIds(3, 10) },
];

const METHODS = [
  ["autocompressor", true],
  ["rmt", false],
] as const;

function shapeFor(rows: number, accumulate: boolean): SegmentShape {
  const { vocabSize, padId } = IDS;
  return { rows, segmentLength: 12, compTokens: 2, accumulate, maxSteps: 4, vocabSize, padId };
}

function specOf(shape: SegmentShape, recompute = false): SegmentGraphSpec {
  const { rows, segmentLength } = shape;
  const base = specFor(MODES["gist"], rows, segmentWidth(shape), recompute);
  return { ...base, summaryGain: true, labels: rows * segmentLength, slots: promptSlots(shape) };
}

/** A sample as segments, labelled at its target. */
function segmentsOf({ steps, input, target }: Sample): SegmentText[] {
  const unlabelled = (ids: number[]): number[] => ids.map(() => IGNORED_LABEL);
  const last = { ids: [...input, ...target], labels: [...unlabelled(input), ...target] };
  return [...steps.map((ids) => ({ ids, labels: unlabelled(ids) })), last];
}

/** Mean negative log-likelihood of `target`, whose first token row `first` of the logits predicts. */
function meanLoss(logits: ArrayLike<number>, first: number, target: readonly number[]): number {
  const { vocabSize } = IDS;
  const nll = target.map((id, i) => {
    const row = Array.from({ length: vocabSize }, (_, column) => logits[(first + i) * vocabSize + column]);
    const most = Math.max(...row);
    return most + Math.log(row.reduce((sum, value) => sum + Math.exp(value - most), 0)) - row[id];
  });
  return nll.reduce((sum, value) => sum + value, 0) / target.length;
}

function parametersFor(tiny: TinyTraining, spec: SegmentGraphSpec): { layout: ParameterLayout; values: Float32Array } {
  const { config, embedding, finalNorm } = tiny.base;
  const layout = layoutParameters(config, spec);
  const normal = normalGenerator(3);
  const values = initialParameters(config, layout, 3, embedding, finalNorm).map((value) => value + 0.1 * normal());
  return { layout, values };
}

/** A pass with these parameters; `run` gives loss and gradient of samples, one to a row. */
async function startPass(
  tiny: TinyTraining,
  shape: SegmentShape,
  {
    bptt,
    recompute,
    dropout,
    precision = "fp32",
  }: { bptt?: number; recompute?: boolean; dropout?: number; precision?: Precision } = {},
) {
  const drop = dropout === undefined ? {} : { dropout: { rate: dropout, seed: 1 } };
  const spec = { ...specOf(shape, recompute), ...drop, precision };
  const { config, weights, weightsFolder } = tiny.base;
  const { layout, values } = parametersFor(tiny, spec);
  const pass = await RecurrentPass.create({
    config,
    weights,
    spec,
    bptt,
    engine: { weightsFolder, device: "cpu", threads: 1 },
  });
  return {
    spec,
    layout,
    values,
    /** @param options `after`: what micro-batches before gave, to be added to */
    async run(
      samples: readonly Sample[],
      options: { draw?: number; at?: Float32Array; after?: { loss: number; gradient: Float32Array } } = {},
    ) {
      const { draw = 0, at = values, after = { loss: 0, gradient: new Float32Array(layout.size) } } = options;
      const prepared = pass.prepare(segmentSamples(samples.map(segmentsOf), shape), draw);
      const { gradient, losses } = await prepared.backward({
        parameters: floatTensor(at, [layout.size]),
        accumulated: {
          gradient: floatTensor(after.gradient, [layout.size]),
          losses: floatTensor(Float32Array.of(after.loss), [1]),
        },
        lossScale: 1024,
      });
      return {
        loss: Number(losses.data[0]),
        labels: prepared.labels,
        gradient: Float32Array.from(gradient.data as Float32Array),
      };
    },
    evaluate: (samples: readonly Sample[]) =>
      pass.evaluate(segmentSamples(samples.map(segmentsOf), shape), floatTensor(values, [layout.size])),
    [Symbol.asyncDispose]: () => pass.dispose(),
  };
}

/** The flat vector as the reference decoder takes it. */
function referenceAdapter(
  layout: ParameterLayout,
  values: Float32Array,
  { rank, loraScale }: SegmentGraphSpec,
): RecurrentAdapter {
  const part = (name: string): Float32Array => {
    const { offset, size } = layout.slices.find((slice) => slice.name === name)!;
    return values.slice(offset, offset + size);
  };
  const weights = new Map<string, Float32Array>();
  for (const { name } of layout.slices) {
    const match = /^lora_([ab])\.(\d+)\.self_attn\.(\w+)$/.exec(name);
    if (match === null) continue;
    weights.set(adapterKey(Number(match[2]), match[3], match[1] === "a" ? "A" : "B"), part(name));
  }
  const summaryGain = part("summary_log_gain").map(Math.exp);
  return { r: rank, scale: loraScale, weights, compEmbeddings: part("comp_embeddings"), summaryGain };
}

describe.each([
  ["llama", {}],
  ["qwen3", {}],
  ["mistral", { sliding_window: 8 }],
] as const)("%s: what training measures is what the memory does", (architecture, config) => {
  let fixture: Fixture;
  let tiny: TinyTraining;
  beforeAll(async () => {
    fixture = await createFixture({ architecture, tiedHead: true }, { config });
    tiny = await openTraining(fixture.files.directory, fixture.scratch);
  });
  afterAll(() => fixture[Symbol.asyncDispose]());

  test.each(METHODS)("%s", async (method, accumulate) => {
    const shape = shapeFor(4, accumulate);
    await using pass = await startPass(tiny, shape);
    const directory = mkdtempSync(join(fixture.scratch, "adapter-"));
    await saveTrainedAdapter(directory, tiny.base.config, pass.spec, pass.layout, pass.values, {
      alpha: pass.spec.loraScale * pass.spec.rank,
      base: tiny.base.fingerprint,
      trainingSummary: {},
      method,
      methodOptions: {},
      gated: false,
    });
    const saved = await loadAdapter(directory, { fingerprint: tiny.base.fingerprint, hiddenSize: 32 });
    const { layerCount } = tiny.base.config;
    const resumed = parametersOfAdapter(saved, layerCount, pass.layout, pass.spec, pass.spec.loraScale);
    expect(relativeError(resumed, pass.values)).toBeLessThan(1e-6);
    let sum = 0;
    let labels = 0;
    for (const { steps, input, target } of SAMPLES) {
      const memory = await fixture.model.createMemory({ adapter: directory });
      expect(memory.method).toBe(method);
      for (const step of steps) await memory.append(step);
      const { logits } = await memory.forward([...input, ...target]);
      const online = meanLoss(logits, input.length - 1, target);
      const alone = await pass.run([{ steps, input, target }]);
      expect(Math.abs(alone.loss - online)).toBeLessThan(1e-4);
      sum += online * target.length;
      labels += target.length;
      await memory.dispose();
    }
    // Samples of different lengths side by side, and an empty row.
    const together = await pass.run(SAMPLES);
    expect(together.labels).toBe(labels);
    expect(Math.abs(together.loss - sum / labels)).toBeLessThan(1e-4);
    const evaluated = await pass.evaluate(SAMPLES);
    expect(evaluated.labels).toBe(labels);
    expect(Math.abs(evaluated.loss - together.loss)).toBeLessThan(1e-5);
  });
});

describe("gradients", () => {
  let fixture: Fixture;
  let tiny: TinyTraining;
  let reference: DecoderModel;
  beforeAll(async () => {
    fixture = await createFixture({ tiedHead: true, seed: 5 });
    tiny = await openTraining(fixture.files.directory, fixture.scratch);
    reference = readDecoderModel(fixture.files.directory);
  });
  afterAll(() => fixture[Symbol.asyncDispose]());

  /** The float64 loss, with the summaries of all but the last `through` steps made by `fixed`. */
  function lossOf(
    { steps, input, target }: Sample,
    accumulate: boolean,
    adapter: RecurrentAdapter,
    fixed: RecurrentAdapter,
    through: number,
  ): number {
    const cut = Math.max(0, steps.length - through);
    const before = summaries(reference, fixed, steps.slice(0, cut), accumulate);
    const prompt = summaries(reference, adapter, steps.slice(cut), accumulate, before);
    return meanLoss(answerLogits(reference, adapter, prompt, [...input, ...target]), input.length - 1, target);
  }

  const cases = METHODS.flatMap(([method, accumulate]) =>
    [undefined, 1, 2].map((bptt) => ({ method, accumulate, bptt })),
  );
  test.each(cases)("of $method through $bptt summaries are the finite differences", async ({ accumulate, bptt }) => {
    await using pass = await startPass(tiny, shapeFor(1, accumulate), { bptt });
    const [sample] = SAMPLES;
    const { gradient } = await pass.run([sample]);
    const fixed = referenceAdapter(pass.layout, pass.values, pass.spec);
    const normal = normalGenerator(17);
    for (let direction = 0; direction < 4; direction++) {
      const step = pass.values.map(() => 5e-5 * normal());
      const [ahead, behind] = [1, -1].map((sign) => pass.values.map((value, i) => value + sign * step[i]));
      const [above, below] = [ahead, behind].map((values) =>
        lossOf(sample, accumulate, referenceAdapter(pass.layout, values, pass.spec), fixed, bptt ?? Infinity),
      );
      const predicted = gradient.reduce((sum, value, i) => sum + value * (ahead[i] - behind[i]), 0);
      const scale = Math.hypot(...gradient) * 1e-4;
      expect(Math.abs(above - below - predicted) / scale).toBeLessThan(5e-3);
    }
  });

  test("a cut changes the gradient, and one as long as the sample does not", async () => {
    const run = async (bptt?: number): Promise<Float32Array> => {
      await using pass = await startPass(tiny, shapeFor(1, true), { bptt });
      return (await pass.run([SAMPLES[0]])).gradient;
    };
    const exact = await run();
    expect(await run(4)).toEqual(exact);
    for (const bptt of [1, 2]) expect(relativeError(await run(bptt), exact)).toBeGreaterThan(1e-3);
    expect([1, 2, 3, 4].map((boundary) => crosses(boundary, 1))).toEqual([true, false, true, false]);
  });

  test("dropout has the same masks in both directions of time, and none in evaluation", async () => {
    const shape = shapeFor(1, true);
    await using plain = await startPass(tiny, shape);
    await using pass = await startPass(tiny, shape, { dropout: 0.3 });
    const samples = SAMPLES.slice(0, 1);
    const { loss, gradient } = await pass.run(samples, { draw: 5 });
    expect((await pass.run(samples, { draw: 5 })).loss).toBe(loss);
    expect((await pass.run(samples, { draw: 6 })).loss).not.toBe(loss);
    expect(await pass.evaluate(samples)).toEqual(await plain.evaluate(samples));
    const normal = normalGenerator(23);
    const step = pass.values.map(() => 1e-4 * normal());
    const [above, below] = await Promise.all(
      [1, -1].map((sign) => pass.run(samples, { draw: 5, at: pass.values.map((value, i) => value + sign * step[i]) })),
    );
    const predicted = 2 * gradient.reduce((sum, value, i) => sum + value * step[i], 0);
    expect(Math.abs(above.loss - below.loss - predicted)).toBeLessThan(0.02 * 2e-4 * Math.hypot(...gradient));
  });

  test("computing layers again changes no bit, and rows do not touch each other", async () => {
    const shape = shapeFor(2, true);
    await using pass = await startPass(tiny, shape);
    await using again = await startPass(tiny, shape, { recompute: true });
    const both = await pass.run(SAMPLES.slice(0, 2));
    expect(await again.run(SAMPLES.slice(0, 2))).toEqual(both);
    const alone = [await pass.run([SAMPLES[0]]), await pass.run([SAMPLES[1]])];
    const mean = alone[0].gradient.map(
      (value, i) => (alone[0].labels * value + alone[1].labels * alone[1].gradient[i]) / both.labels,
    );
    expect(relativeError(both.gradient, mean)).toBeLessThan(1e-4);
  });

  test("the losses of all segments, and of several micro-batches, add up", async () => {
    const shape = shapeFor(1, true);
    await using pass = await startPass(tiny, shape);
    const [first, second] = [await pass.run([SAMPLES[0]]), await pass.run([SAMPLES[1]])];
    const both = await pass.run([SAMPLES[1]], { after: first });
    expect(both.loss).toBeCloseTo(first.loss + second.loss, 4);
    const sum = first.gradient.map((value, i) => value + second.gradient[i]);
    expect(relativeError(both.gradient, sum)).toBeLessThan(1e-5);
  });

  test("a few steps make key-value recall easier, through summaries alone", async () => {
    const recall = (number: number): Sample => {
      const keys = [0, 1].map((i) => 10 + ((number * 3 + i * 5) % 8));
      const values = [0, 1].map((i) => 40 + ((number * 7 + i * 3) % 4));
      const asked = number % 2;
      return { steps: keys.map((key, i) => [key, values[i]]), input: [3, keys[asked]], target: [values[asked]] };
    };
    const shape: SegmentShape = { ...shapeFor(16, true), segmentLength: 3, maxSteps: 2 };
    const batch = (first: number) =>
      segmentSamples(
        Array.from({ length: 16 }, (_, i) => segmentsOf(recall(first + i))),
        shape,
      );
    const spec = specOf(shape);
    const { config, weights, weightsFolder } = tiny.base;
    const engine = { weightsFolder, device: "cpu" as const, threads: 1 };
    const { layout, values } = parametersFor(tiny, spec);
    const zeros = (): Float32Array => new Float32Array(layout.size);
    await using trainer = await Trainer.create({
      layout,
      pass: () => RecurrentPass.create({ config, weights, spec, engine }),
      optimizer: {},
      engine,
      state: { step: 0, parameters: values, firstMoment: zeros(), secondMoment: zeros() },
    });
    const before = await trainer.evaluate(batch(1000));
    for (let step = 0; step < 25; step++) await trainer.takeStep([batch(16 * step)], 0.02);
    expect((await trainer.evaluate(batch(1000))).loss).toBeLessThan(0.7 * before.loss);
  });
});

describe("segments", () => {
  test("samples end together; positions count what a row holds", () => {
    const { segments } = segmentSamples(SAMPLES.slice(0, 2).map(segmentsOf), shapeFor(2, true));
    expect(segments).toHaveLength(5);
    const { tokens, place, keep } = segments[3];
    const [slots, seq] = [8, 8 + 12 + 2];
    // The first sample is at its fourth step, behind six summaries; the second at its first, behind none.
    expect([...tokens.positionIds.subarray(0, 6)]).toEqual([0, 1, 2, 3, 4, 5]);
    expect([...tokens.positionIds.subarray(8, 13)]).toEqual([6, 7, 8, 9, 10]);
    expect([...tokens.positionIds.subarray(20, 22)]).toEqual([11, 12]);
    expect([...tokens.positionIds.subarray(seq + 8, seq + 13)]).toEqual([0, 1, 2, 3, 4]);
    expect([...tokens.attentionMask.subarray(seq, seq + 8)]).toEqual(Array.from({ length: 8 }, () => 0));
    expect([...keep.subarray(0, slots)]).toEqual([1, 1, 1, 1, 1, 1, 0, 0]);
    expect([...place.subarray(12, 16)]).toEqual([1, 0, 0, 1]);
    // The input makes no summaries.
    expect(segments[4].place.every((value) => value === 0)).toBe(true);
  });

  test("samples that do not fit are refused", () => {
    const shape = shapeFor(1, true);
    const long = [{ ids: textIds(13), labels: textIds(13) }];
    const refused = expect.objectContaining({ code: "INPUT_INVALID" });
    expect(() => segmentSamples([long], shape)).toThrow(refused);
    const many = Array.from({ length: 6 }, () => ({ ids: [3], labels: [IGNORED_LABEL] }));
    expect(() => segmentSamples([many], shape)).toThrow(refused);
  });
});

test("with half floats: nearly the same loss and gradient through all segments", async () => {
  await using fixture = await createFixture({ architecture: "llama", tiedHead: true });
  const tiny = await openTraining(fixture.files.directory, fixture.scratch);
  const shape = shapeFor(4, true);
  await using full = await startPass(tiny, shape);
  await using half = await startPass(tiny, shape, { precision: "fp16" });
  // Vectors of one length that differ by 4.5 % have a cosine of 0.999. Through four segments, this random model makes
  // 5 % of the gradient out of 0.04 % of its parameters; so rounding to 0.05 % counts for more there.
  for (const [samples, tolerance] of [
    [SAMPLES.slice(1), 0.045],
    [SAMPLES, 0.15],
  ] as const) {
    const [exact, near] = [await full.run(samples), await half.run(samples)];
    expect(near.loss / exact.loss).toBeCloseTo(1, 3);
    expect(near.loss).not.toBe(exact.loss);
    expect(relativeError(near.gradient, exact.gradient)).toBeLessThan(tolerance);
    expect((await half.evaluate(samples)).loss).toBeCloseTo(near.loss, 2);
  }
});
