/** @file Training with frozen matrices in 8 bits: gradients that point where those of float32 do, from products of 8-bit weights. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { GraphBuilder } from "#precis/graph/builder.js";
import { weightsFor } from "#precis/train/base-model.js";
import type { Precision } from "#precis/train/loss-scale.js";
import { layoutParameters } from "#precis/train/parameters.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";
import { buildTrainingGraph, type TrainingGraphSpec } from "#precis/train/training-graph.js";
import type { RandomModelOptions } from "../reference/random-model.js";
import {
  cosine,
  MODES,
  pairBatch,
  relativeError,
  specFor,
  tinyTraining,
  type Pass,
  type TinyTraining,
} from "./tiny-training.js";

const ROWS = 2;
const SEQ = 40;
const LAYERS = 2;
/** Least cosine with the gradient of float32, for random models with large weights; a wrong form of a matrix leaves 0. */
const LEAST_COSINE = 0.98;

async function run(tiny: TinyTraining, spec: TrainingGraphSpec, mode: ParallelMode): Promise<Pass> {
  const passes = await tiny.passes(spec);
  try {
    return await passes.run(pairBatch(mode, ROWS, SEQ));
  } finally {
    await passes.dispose();
  }
}

const MODELS: [string, RandomModelOptions][] = [
  ["llama with a tied head", { dtype: "float16" }],
  ["llama whose queries, keys and values are one product", { dtype: "float16", hiddenSize: 64 }],
  ["qwen2 with biases", { architecture: "qwen2" }],
  ["phi3 with stacked projections and a head of its own", { architecture: "phi3", tiedHead: false, dtype: "float16" }],
];

describe.each(MODELS)("%s", (_name, options) => {
  let tiny: TinyTraining;
  beforeAll(async () => {
    tiny = await tinyTraining({ ...options, layers: LAYERS });
  });
  afterAll(() => tiny[Symbol.asyncDispose]());

  test.each<[string, ParallelMode, Partial<TrainingGraphSpec>]>([
    ["merge", MODES["merge, recursive"], {}],
    ["recomputing layers", MODES["concat, recursive"], { recompute: true }],
    ["distilling", MODES["gist"], { distill: { weight: 0.5, temperature: 2 } }],
  ])("%s: loss and gradients are nearly those of float32", async (_variant, mode, changes) => {
    const targets = options.architecture === "phi3" ? (["self_attn.qkv_proj", "self_attn.o_proj"] as const) : undefined;
    const spec = { ...specFor(mode, ROWS, SEQ), ...changes, ...(targets && { targets }) };
    const full = await run(tiny, spec, mode);
    const eight = await run(tiny, { ...spec, precision: "int8" }, mode);
    expect(Math.abs(eight.loss / full.loss - 1)).toBeLessThan(0.01);
    expect(cosine(eight.gradient, full.gradient)).toBeGreaterThan(LEAST_COSINE);
    // Not those of half floats either, or nothing was multiplied in 8 bits.
    const half = await run(tiny, { ...spec, precision: "fp16" }, mode);
    expect(relativeError(eight.gradient, half.gradient)).toBeGreaterThan(1e-3);
  });
});

describe("a graph", () => {
  const mode = MODES["merge, recursive"];
  const spec = specFor(mode, ROWS, SEQ);
  let tiny: TinyTraining;
  beforeAll(async () => {
    tiny = await tinyTraining({ dtype: "float16", layers: LAYERS });
  });
  afterAll(() => tiny[Symbol.asyncDispose]());

  async function graphOf(precision: Precision, { base, scratch } = tiny): Promise<GraphBuilder> {
    const { config } = base;
    const { weights } = await weightsFor(base, precision, { cacheDir: scratch });
    return buildTrainingGraph(config, weights(), layoutParameters(config, spec), { ...spec, precision });
  }

  test("multiplies by frozen matrices in 8 bits only, forward and backward, and does not quantise activations", async () => {
    const { nodes, initializers } = await graphOf("int8");
    const products = nodes.filter(({ opType }) => opType === "MatMulNBits");
    // Seven projections of a layer and the head, once in each direction.
    expect(products).toHaveLength(2 * (7 * LAYERS + 1));
    expect(new Set(products.map(({ attributes }) => attributes["accuracy_level"]))).toEqual(new Set([0n]));
    const matrices = new Set(
      initializers.filter(({ name, shape }) => name.startsWith("model.") && shape.length === 2).map(({ name }) => name),
    );
    // Token ids and labels are looked up in the table as it is stored.
    expect([...matrices]).toEqual(["model.embed_tokens.weight"]);
    expect(
      nodes.filter(({ opType, inputs }) => opType === "MatMul" && inputs.some((name) => matrices.has(name))),
    ).toEqual([]);
  });

  test("makes one product of queries, keys and values where their outputs are whole blocks", async () => {
    await using wide = await tinyTraining({ dtype: "float16", layers: LAYERS, hiddenSize: 64 });
    const { nodes } = await graphOf("int8", wide);
    expect(nodes.filter(({ opType }) => opType === "MatMulNBits")).toHaveLength(2 * (5 * LAYERS + 1));
  });

  test("learns as float32 does", async () => {
    const losses = [];
    for (const precision of ["fp32", "int8"] as const) {
      await using trainer = await tiny.trainer({ ...spec, precision });
      const first = (await trainer.evaluate(pairBatch(mode, ROWS, SEQ))).loss;
      for (let step = 0; step < 12; step++) await trainer.takeStep([pairBatch(mode, ROWS, SEQ)], 1e-2);
      losses.push([first, (await trainer.evaluate(pairBatch(mode, ROWS, SEQ))).loss]);
    }
    const [[before, full], [, eight]] = losses as [[number, number], [number, number]];
    expect(full).toBeLessThan(0.9 * before);
    expect(Math.abs(eight - full)).toBeLessThan(0.02 * before);
  });
});
