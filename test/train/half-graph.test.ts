/** @file What a training graph with half floats is made of: what it holds, what it converts, and what a GPU must know. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { GraphBuilder, GraphNode } from "#precis/graph/builder.js";
import { layoutParameters } from "#precis/train/parameters.js";
import { buildEvaluationGraph, buildTrainingGraph, type TrainingGraphSpec } from "#precis/train/training-graph.js";
import { MODES, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

/** Ops whose WebGPU kernels in ONNX Runtime 1.30 take half floats; any other would run on the CPU, with copies. */
const HALF_ON_WEBGPU = new Set(
  [
    ["Add", "Cast", "Concat", "Expand", "Gather", "Identity", "MatMul", "Mul", "Reshape"],
    ["RotaryEmbedding", "Sigmoid", "Slice", "Split", "Sub", "Transpose"],
  ].flat(),
);

/** Ops that half floats are not exact enough for, or leave the range of. */
const WIDE = ["Softmax", "SimplifiedLayerNormalization", "ReduceSum", "ReduceMean", "ReduceSumSquare", "Exp", "Log"];

const LAYERS = 2;
const mode = MODES["merge, recursive"];
const half: TrainingGraphSpec = { ...specFor(mode, 2, 40), precision: "fp16" };

function isHalf({ inputValues, outputValues }: GraphNode): boolean {
  return [...inputValues, ...outputValues].some((value) => value?.dtype === "float16");
}

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining({ dtype: "float16", layers: LAYERS });
});
afterAll(() => tiny[Symbol.asyncDispose]());

function graphOf(spec: TrainingGraphSpec): GraphBuilder {
  const { config, weights } = tiny.base;
  return buildTrainingGraph(config, weights(), layoutParameters(config, spec), spec);
}

describe.each<[string, Partial<TrainingGraphSpec>]>([
  ["plain", {}],
  ["with dropout and a teacher", { dropout: { rate: 0.1, seed: 1 }, distill: { weight: 0.5, temperature: 1 } }],
  ["recomputing layers", { recompute: true }],
])("%s", (_name, changes) => {
  const graph = (): GraphBuilder => graphOf({ ...half, ...changes });

  test("half floats only meet ops that WebGPU has for them", () => {
    const ops = new Set(
      graph()
        .nodes.filter(isHalf)
        .map(({ opType }) => opType),
    );
    expect([...ops].filter((op) => !HALF_ON_WEBGPU.has(op))).toEqual([]);
    expect(ops).toContain("MatMul");
  });

  test("norms, softmax and sums are float32", () => {
    const wide = graph().nodes.filter(({ opType }) => WIDE.includes(opType));
    expect(new Set(wide.map(({ opType }) => opType)).size).toBeGreaterThan(4);
    expect(wide.filter(isHalf).map(({ name }) => name)).toEqual([]);
  });

  test("every product of a layer, forward and backward, and the head's, multiplies half floats", () => {
    const products = graph().nodes.filter(({ opType }) => opType === "MatMul");
    const wide = products.filter((node) => !isHalf(node)).map(({ inputs }) => inputs[0]);
    // Only COMP embeddings are put into place as float32; and their gradient is taken from there.
    expect(wide.filter((input) => !/comp_selection|gradient\.MatMul\.Transpose/.test(input))).toEqual([]);
    expect(products.length).toBeGreaterThan(LAYERS * 20);
  });

  test("frozen matrices are held as stored, and never converted", () => {
    const { initializers, nodes } = graph();
    const matrices = initializers.filter(({ name, shape }) => name.startsWith("model.") && shape.length === 2);
    expect(matrices.length).toBe(1 + 7 * LAYERS);
    expect(new Set(matrices.map(({ dtype }) => dtype))).toEqual(new Set(["float16"]));
    const names = new Set(matrices.map(({ name }) => name));
    expect(nodes.filter(({ opType, inputs }) => opType === "Cast" && names.has(inputs[0] as string))).toEqual([]);
  });
});

test("a layer converts six tensors forward, as many gradients backward, and those of its LoRA", () => {
  const casts = (name: RegExp): number =>
    graphOf(half).nodes.filter(({ opType, name: node }) => opType === "Cast" && name.test(node)).length / LAYERS;
  // Forward: the input of each branch, its output, scores and weights; two norms' factors are constants of the engine.
  expect(casts(/^model\.layers\./)).toBe(4 + 2 + 2);
  // Backward: each branch's gradient in and out, the row sums of attention, and 8 sums of the LoRA's gradients.
  expect(casts(/^gradient\.model\.layers\./)).toBeLessThanOrEqual(4 + 2 + 8);
});

test("without it, nothing is a half float but what is stored as one, and no factor is asked for", () => {
  const graph = graphOf({ ...half, precision: "fp32" });
  const narrow = graph.nodes.filter(({ outputValues }) => outputValues.some((value) => value?.dtype === "float16"));
  expect(narrow).toEqual([]);
  expect(graph.inputs.map(({ name }) => name)).not.toContain("loss_scale");
  expect(graphOf(half).inputs.map(({ name }) => name)).toContain("loss_scale");
});

test("what is measured on held-out data is computed in the same precision, without a factor", () => {
  const { config, weights } = tiny.base;
  const graph = buildEvaluationGraph(config, weights(), layoutParameters(config, half), half);
  expect(graph.inputs.map(({ name }) => name)).not.toContain("loss_scale");
  expect(graph.nodes.filter(isHalf).map(({ opType }) => opType)).toContain("MatMul");
});
