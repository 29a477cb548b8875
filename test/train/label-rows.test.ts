/** @file The last layer goes on with the rows of labels alone, where there are few: a saving that changes no number. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { LoraTarget } from "#precis/models/decoder-io.js";
import { layoutParameters } from "#precis/train/parameters.js";
import { placeLayouts } from "#precis/train/padded-batch.js";
import { placeTeacher } from "#precis/train/teacher-batch.js";
import type { DistilledBatch } from "#precis/train/training-batch.js";
import { buildTrainingGraph, type TrainingGraphSpec } from "#precis/train/training-graph.js";
import { layoutOf, MODES, relativeError, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

const [ROWS, SEQ, LABELS] = [2, 32, 7];
const mode = MODES["concat, recursive"];
const targets = ["self_attn.q", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"].map(
  (name): LoraTarget => `${name}_proj` as LoraTarget,
);

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny[Symbol.asyncDispose]());

function batchOf(): DistilledBatch {
  const ids = (salt: number): number[] => [0, 1, 2].map((i) => 5 + ((salt * 13 + i * 7) % 300));
  const samples = [0, 10].map((salt) => ({
    chunks: [[1, ...ids(salt)], ids(salt + 1), ids(salt + 2)],
    input: ids(salt + 3),
    target: ids(salt + 4),
  }));
  const layouts = samples.map((sample) => layoutOf(sample, mode));
  const placed = layouts.map((layout) => [{ layout, start: 0 }]);
  return { ...placeLayouts(placed, SEQ), teacher: placeTeacher(placed, SEQ) };
}

describe.each<[string, Partial<TrainingGraphSpec>]>([
  ["plain", {}],
  ["computing layers again", { recompute: true }],
  ["with dropout", { dropout: { rate: 0.2, seed: 1 } }],
  ["with a teacher", { distill: { weight: 0.5, temperature: 2 } }],
])("%s", (_name, changes) => {
  const spec = (labels: number): TrainingGraphSpec => ({ ...specFor(mode, ROWS, SEQ), targets, labels, ...changes });

  test("loss and gradient are those of a graph that computes every row", async () => {
    const results = [];
    for (const labels of [LABELS, ROWS * SEQ]) {
      const passes = await tiny.passes(spec(labels));
      results.push(await passes.run(batchOf()));
      await passes.dispose();
    }
    const [few, all] = results;
    expect(few.loss).toBeCloseTo(all.loss, 5);
    expect(relativeError(few.gradient, all.gradient)).toBeLessThan(1e-5);
  });

  test("no product of the last layer but those of its attention has more rows than labels", () => {
    const { config, weights } = tiny.base;
    const graph = buildTrainingGraph(config, weights(), layoutParameters(config, spec(LABELS)), spec(LABELS));
    const last = graph.nodes.filter(
      ({ name, opType, inputValues }) =>
        opType === "MatMul" && /^(teacher\.)?model\.layers\.1\./.test(name) && inputValues[0]?.shape.length === 2,
    );
    expect(last.length).toBeGreaterThan(3);
    expect(new Set(last.map(({ outputValues }) => outputValues[0]?.shape[0]))).toEqual(new Set([LABELS]));
  });
});
