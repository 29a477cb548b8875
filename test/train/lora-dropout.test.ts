/** @file Dropout of what the LoRA reads. */

import { tmpdir } from "node:os";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { GraphBuilder } from "#precis/graph/builder.js";
import type { LoraTarget } from "#precis/models/decoder-io.js";
import { EngineSession, floatTensor } from "#precis/runtime/engine-session.js";
import { dropoutFeeds, emitDropout } from "#precis/train/lora-dropout.js";
import { layoutParameters } from "#precis/train/parameters.js";
import { padLayouts, type PaddedBatch } from "#precis/train/padded-batch.js";
import { Trainer } from "#precis/train/trainer.js";
import { buildTrainingGraph } from "#precis/train/training-graph.js";
import { normalGenerator } from "../reference/random-tensors.js";
import { layoutOf, MODES, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

const RATE = 0.3;
const dropout = { rate: RATE, seed: 4 };
const mode = MODES["concat, recursive"];

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny[Symbol.asyncDispose]());

function batchOf(number: number): PaddedBatch {
  const ids = (salt: number): number[] => [0, 1, 2].map((i) => 5 + ((number * 41 + salt * 13 + i * 7) % 300));
  const sample = { chunks: [[1, ...ids(0)], ids(1), ids(2)], input: ids(3), target: ids(4) };
  return padLayouts([layoutOf(sample, mode)], { length: 32 });
}

describe("masks", () => {
  const targets: LoraTarget[] = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"];
  const spec = { rank: 4, targets, compTokens: 2, batch: 4, seq: 100 };
  const features = 32;

  /** What is left of ones: of the inputs of the query, value and output projections of the first layer. */
  async function masks(draw: number, seed = 4): Promise<Float32Array[]> {
    const { config } = tiny.base;
    const make = (): GraphBuilder => {
      const graph = new GraphBuilder("test", "primitive");
      const input = emitDropout(graph, config, spec, dropout);
      const [x, y] = ["x", "y"].map((name) => graph.input(name, "float32", [spec.batch, spec.seq, features]));
      targets.slice(0, 3).forEach((target, i) => graph.output(input(0, target, i < 2 ? x : y), target));
      return graph;
    };
    await using session = await EngineSession.create(make, { weightsFolder: tmpdir(), device: "cpu", threads: 1 });
    const ones = floatTensor(new Float32Array(400 * features).fill(1), [4, 100, features]);
    const feeds = { x: ones, y: ones, ...dropoutFeeds(config, spec, { rate: RATE, seed }, draw) };
    const outputs = await session.run(feeds, targets.slice(0, 3));
    return targets.slice(0, 3).map((target) => outputs[target].data as Float32Array);
  }

  test("elements are dropped at the rate, pairs of them independently, and what is kept is scaled up", async () => {
    // Shares over many draws: of single elements, and of pairs in one token, in one feature, and in neither.
    const [single, pairs] = [{ kept: 0, all: 0 }, [0, 0, 0]];
    const draws = 12;
    for (let draw = 0; draw < draws; draw++) {
      const [mask] = await masks(draw);
      expect(new Set(mask)).toEqual(new Set([0, Math.fround(1 / 0.7)]));
      const kept = (token: number, feature: number): number => Math.sign(mask[(token % 400) * features + feature]);
      for (let token = 0; token < 400; token++) {
        for (let feature = 0; feature < features; feature++) {
          single.kept += kept(token, feature);
          single.all += 1;
          const [otherToken, otherFeature] = [token + 7, (feature + 5) % features];
          pairs[0] += kept(token, feature) * kept(token, otherFeature);
          pairs[1] += kept(token, feature) * kept(otherToken, feature);
          pairs[2] += kept(token, feature) * kept(otherToken, otherFeature);
        }
      }
    }
    expect(single.kept / single.all).toBeCloseTo(1 - RATE, 2);
    for (const both of pairs) expect(Math.abs(both / single.all - (1 - RATE) ** 2)).toBeLessThan(0.02);
  });

  test("projections of one input share its mask; other inputs, draws and seeds have others", async () => {
    const [queries, values, output] = await masks(0);
    expect(values).toEqual(queries);
    expect(output).not.toEqual(queries);
    expect(await masks(0)).toEqual([queries, values, output]);
    expect((await masks(1))[0]).not.toEqual(queries);
    expect((await masks(0, 5))[0]).not.toEqual(queries);
  });
});

test("the gradient is the slope of the loss under the same masks", async () => {
  const spec = { ...specFor(mode, 1, 32), dropout };
  const passes = await tiny.passes(spec);
  const batch = batchOf(1);
  const { gradient } = await passes.run(batch);
  const values = tiny.parameters(spec);
  for (const kind of ["lora_a.", "lora_b."]) {
    const normal = normalGenerator(7);
    const direction = new Float32Array(values.length);
    for (const { name, offset, size } of layoutParameters(tiny.base.config, spec).slices)
      if (name.startsWith(kind)) for (let i = 0; i < size; i++) direction[offset + i] = normal();
    const step = 0.002;
    const at = async (steps: number): Promise<number> =>
      (
        await passes.run(
          batch,
          undefined,
          values.map((v, i) => v + steps * step * direction[i]),
        )
      ).loss;
    const slope = (8 * ((await at(1)) - (await at(-1))) - ((await at(2)) - (await at(-2)))) / (12 * step);
    const along = direction.reduce((sum, d, i) => sum + d * gradient[i], 0);
    expect(Math.abs(along - slope), kind).toBeLessThan(0.02 * Math.abs(slope) + 2e-3);
  }
  await passes.dispose();
});

test("every micro-batch has masks of its own, and a trainer that goes on from a step has the ones of that step", async () => {
  const spec = { ...specFor(mode, 1, 32), dropout };
  const batch = batchOf(2);
  await using whole = await tiny.trainer(spec);
  const losses: number[] = [];
  // Nothing is learned, so that only the masks differ.
  for (let step = 0; step < 4; step++) losses.push((await whole.takeStep([batch], 0)).loss);
  expect(new Set(losses).size).toBe(4);
  await using halves = await tiny.trainer(spec);
  const first = await halves.takeStep([batch, batch], 0);
  expect(first.loss).toBeCloseTo((losses[0] + losses[1]) / 2, 5);
  const { state, ...parts } = tiny.parts(spec);
  await using resumed = await Trainer.create({ ...parts, state: { ...state, step: 2 } });
  expect((await resumed.takeStep([batch], 0)).loss).toBe(losses[2]);
});

test("a run has the same losses whether its next batches are known or not", async () => {
  const spec = { ...specFor(mode, 1, 32), dropout };
  const batches = [0, 1, 2, 3, 4].map(batchOf);
  const losses: number[][] = [];
  const followers: ((step: number) => PaddedBatch | undefined)[] = [
    () => undefined,
    (step) => batches[step + 1],
    // Known, but wrong: what comes counts.
    () => batches[2],
  ];
  for (const next of followers) {
    await using trainer = await tiny.trainer(spec);
    const own: number[] = [];
    for (const [step, batch] of batches.entries()) {
      own.push((await trainer.takeStep([batch], 1e-2, () => next(step))).loss);
    }
    losses.push(own);
  }
  expect(losses[1]).toEqual(losses[0]);
  expect(losses[2]).toEqual(losses[0]);
});

test("evaluation drops nothing", async () => {
  const batch = batchOf(3);
  await using plain = await tiny.trainer(specFor(mode, 1, 32));
  await using dropping = await tiny.trainer({ ...specFor(mode, 1, 32), dropout });
  expect(await dropping.evaluate(batch)).toEqual(await plain.evaluate(batch));
});

test("recomputing layers uses the same masks, and makes them again instead of keeping them", async () => {
  const states = [];
  for (const recompute of [false, true]) {
    const spec = { ...specFor(mode, 1, 32, recompute), dropout };
    await using trainer = await tiny.trainer(spec);
    for (let step = 0; step < 2; step++) await trainer.takeStep([batchOf(step)], 1e-2);
    states.push(await trainer.state());
    const { config, weights } = tiny.base;
    const graph = buildTrainingGraph(config, weights(), layoutParameters(config, spec), spec);
    const floors = graph.nodes.filter(({ opType }) => opType === "Floor").length;
    // Two for the attention mask; two for each of two inputs of two layers, and as many again in the backward pass.
    expect(floors).toBe(2 + (recompute ? 16 : 8));
  }
  expect(states[1]).toEqual(states[0]);
});
