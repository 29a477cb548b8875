/** @file Learning from the base model with the full context in view. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { Episode } from "#precis/data/episode.js";
import { layoutEpisode, packedBatches, type LabelScope } from "#precis/train/batches.js";
import { packLayouts } from "#precis/train/packing.js";
import { layoutParameters } from "#precis/train/parameters.js";
import { placeLayouts } from "#precis/train/padded-batch.js";
import { IGNORED_LABEL } from "#precis/train/parallel-layout.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";
import { placeTeacher } from "#precis/train/teacher-batch.js";
import type { TextMode } from "#precis/train/text-layout.js";
import { batchLabels, type DistilledBatch } from "#precis/train/training-batch.js";
import { buildTrainingGraph, type TrainingGraphSpec } from "#precis/train/training-graph.js";
import { expectError } from "../conformance/expect-error.js";
import { normalGenerator } from "../reference/random-tensors.js";
import { IDS, MODES, openTraining, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

const ROWS = 2;
const SEQ = 40;

/** Samples that share rows: two to a row in most modes. */
function episode(number: number): Episode {
  const ids = (count: number, salt: number): number[] =>
    Array.from({ length: count }, (_, i) => 2 + ((number * 53 + salt * 29 + i * 17) % 310));
  const steps = [[1, ...ids(1 + (number % 2), 1)], ids(2, 2)];
  return { id: `e${number}`, source: "test", setting: "conversation", steps, input: ids(2, 4), target: ids(3, 5) };
}

function batchOf(first: number, count: number, mode: ParallelMode, labels: LabelScope = "answer"): DistilledBatch {
  const layouts = Array.from({ length: count }, (_, i) => layoutEpisode(episode(first + i), mode, labels));
  const { placed } = packLayouts(layouts, ROWS, SEQ);
  return { ...placeLayouts(placed, SEQ), teacher: placeTeacher(placed, SEQ) };
}

function distilled(mode: ParallelMode, weight: number, temperature = 1): TrainingGraphSpec {
  return { ...specFor(mode, ROWS, SEQ), labels: 32, distill: { weight, temperature } };
}

/** Starting values as training has them: B is zero, so that the LoRA changes nothing. */
function startingValues(tiny: TinyTraining, spec: TrainingGraphSpec): Float32Array {
  const values = tiny.parameters(spec);
  for (const { name, offset, size } of layoutParameters(tiny.base.config, spec).slices)
    if (name.startsWith("lora_b.")) values.fill(0, offset, offset + size);
  return values;
}

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny[Symbol.asyncDispose]());

/** A model whose layers see a few tokens only. */
async function withWindow(window: number): Promise<TinyTraining> {
  const { base, scratch } = await tinyTraining({ architecture: "mistral" });
  const file = join(base.directory, "config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  writeFileSync(file, JSON.stringify({ ...config, sliding_window: window }));
  return openTraining(base.directory, scratch);
}

const MODELS: [string, () => Promise<TinyTraining>][] = [
  ["llama", () => tinyTraining()],
  ["qwen3", () => tinyTraining({ architecture: "qwen3" })],
  ["mistral with a window of 4", () => withWindow(4)],
];

describe.each(MODELS)("%s", (_name, open) => {
  test("a student that reads the same without an adapter is at distance 0; one with an adapter is not", async () => {
    const model = await open();
    const mode = MODES.full;
    const passes = await model.passes(distilled(mode, 0.5));
    const batch = batchOf(0, 4, mode, "all");
    const same = await passes.run(batch, undefined, startingValues(model, distilled(mode, 0.5)));
    expect(Math.abs(same.distillLoss)).toBeLessThan(1e-6);
    expect(same.loss).toBeGreaterThan(1);
    expect((await passes.run(batch)).distillLoss).toBeGreaterThan(1e-3);
    await passes.dispose();
    await model[Symbol.asyncDispose]();
  });
});

describe.each(["concat, recursive", "merge, recursive", "gist", "full"])("%s", (name) => {
  const mode = MODES[name];

  test.each([
    [1, 1],
    [0.3, 2],
  ])("weight %d, temperature %d: the gradient is the slope of the loss", async (weight, temperature) => {
    const spec = distilled(mode, weight, temperature);
    const passes = await tiny.passes(spec);
    const batch = batchOf(3, 4, mode);
    const { gradient } = await passes.run(batch);
    const values = tiny.parameters(spec);
    const { slices } = layoutParameters(tiny.base.config, spec);
    const objective = async (moved: Float32Array): Promise<number> => {
      const { loss, distillLoss } = await passes.run(batch, undefined, moved);
      return (1 - weight) * loss + weight * temperature ** 2 * distillLoss;
    };
    // One direction for each kind of parameter; long enough that the loss moves by much more than its rounding.
    for (const kind of ["lora_a.", "lora_b.", "comp_embeddings"]) {
      const normal = normalGenerator(7);
      const direction = new Float32Array(values.length);
      for (const { name: slice, offset, size } of slices)
        if (slice.startsWith(kind)) for (let i = 0; i < size; i++) direction[offset + i] = normal();
      const step = 0.002;
      const at = (steps: number): Promise<number> => objective(values.map((v, i) => v + steps * step * direction[i]));
      const slope = (8 * ((await at(1)) - (await at(-1))) - ((await at(2)) - (await at(-2)))) / (12 * step);
      const along = direction.reduce((sum, d, i) => sum + d * gradient[i], 0);
      expect(Math.abs(along - slope), kind).toBeLessThan(0.02 * Math.abs(slope) + 2e-3);
    }
    await passes.dispose();
  });
});

const SENTINEL: TextMode = { ...IDS, method: "sentinel", blockTokens: SEQ, ratios: [0.3, 0.7], longest: 4 };

describe.each([
  ["concat, sink", MODES["concat, sink"]],
  ["merge, each step alone", MODES["merge, each step alone"]],
  ["gist", MODES.gist],
  ["sentinel", SENTINEL],
] as const)("%s", (_name, mode) => {
  test("the teacher's row before a label is the text before it, in every batch of the packer", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(1000), fc.constantFrom<LabelScope>("answer", "all"), async (first, labels) => {
        async function* episodes(): AsyncGenerator<Episode, void, void> {
          for (let i = 0; i < 9; i++) yield episode(first + i);
        }
        const options = { mode, rows: ROWS, rowLength: SEQ, labels, teacher: true };
        for await (const planned of packedBatches(episodes(), options)) {
          const batch = planned.build();
          const teacher = batch.teacher!;
          for (const [token, label] of batch.labels.entries()) {
            if (label === IGNORED_LABEL) continue;
            const row = teacher.predictors[token];
            expect(teacher.inputIds[row + 1]).toBe(label);
            expect(teacher.samples[row + 1]).toBe(teacher.samples[row]);
            expect(teacher.positionIds[row + 1]).toBe(teacher.positionIds[row] + 1);
          }
          // All text, and nothing but text.
          const text = [...batch.inputIds].filter((id, at) => batch.attentionMask[at] === 1 && id < mode.vocabSize);
          expect([...teacher.inputIds].filter((_, at) => teacher.samples[at] >= 0)).toEqual(text);
        }
      }),
      { numRuns: 20 },
    );
  });
});

test.each([
  ["concat, recursive", "answer"],
  ["merge, recursive", "all"],
  ["gist", "answer"],
] as const)("%s, labels %s: training without cross entropy brings the student closer", async (name, labels) => {
  const mode = MODES[name];
  await using trainer = await tiny.trainer(distilled(mode, 1));
  const batch = batchOf(0, 4, mode, labels);
  const distances: number[] = [];
  for (let step = 0; step < 15; step++) distances.push((await trainer.takeStep([batch], 0.02)).distillLoss!);
  expect(distances[14]).toBeLessThan(0.5 * distances[0]);
});

test("the loss that is reported is the cross entropy, as without a teacher; micro-batches are averaged", async () => {
  const mode = MODES["concat, recursive"];
  const [first, second] = [batchOf(0, 4, mode), batchOf(8, 4, mode)];
  await using plain = await tiny.trainer(specFor(mode, ROWS, SEQ));
  await using taught = await tiny.trainer(distilled(mode, 0.7, 2));
  const one = await taught.takeStep([first], 0);
  const two = await taught.takeStep([second], 0);
  const both = await taught.takeStep([first, second], 0);
  expect(one.loss).toBeCloseTo((await plain.takeStep([first], 0)).loss, 5);
  expect(both.distillLoss).toBeCloseTo((one.distillLoss! + two.distillLoss!) / 2, 5);
  expect((await taught.evaluate(first)).loss).toBeCloseTo(one.loss, 5);
  expect(await plain.evaluate(first)).toEqual(await taught.evaluate(first));
});

test.each([false, true])("differentiation adds nothing for the teacher (recomputing layers: %s)", (recompute) => {
  const { config, weights } = tiny.base;
  const spec = { ...distilled(MODES["concat, recursive"], 0.5), recompute };
  const graph = buildTrainingGraph(config, weights(), layoutParameters(config, spec), spec);
  const nodes = graph.nodes.map(({ name }) => name);
  expect(nodes.filter((name) => name.startsWith("teacher.")).length).toBeGreaterThan(20);
  expect(nodes.filter((name) => name.includes("gradient") && name.includes("teacher"))).toEqual([]);
  expect(nodes.some((name) => name.startsWith("gradient."))).toBe(true);
});

test("a batch without a teacher's inputs, or with a label that no text precedes, is refused", async () => {
  const mode = MODES["concat, recursive"];
  await using trainer = await tiny.trainer(distilled(mode, 0.5));
  const { teacher, ...batch } = batchOf(0, 2, mode);
  await expectError(trainer.takeStep([batch], 0), "INPUT_INVALID", /what the teacher reads/);
  // The first token of the second sample of a row.
  const labels = batch.labels.with(teacher!.predictors.indexOf(-1, 1), 5);
  await expectError(trainer.takeStep([{ ...batch, labels, teacher }], 0), "INPUT_INVALID", /what the teacher reads/);
  expect(batchLabels(batch).rows.length).toBeGreaterThan(0);
  // Known ahead, it does not trouble the step before it.
  const good = batchOf(0, 2, mode);
  expect((await trainer.takeStep([good], 0, () => batch)).loss).toBeGreaterThan(0);
  await expectError(trainer.takeStep([batch], 0), "INPUT_INVALID", /what the teacher reads/);
});
