/** @file The trained vector as a graph multiplies by it: every matrix in its place, for every layer. */

import { tmpdir } from "node:os";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { GraphBuilder } from "#precis/graph/builder.js";
import type { LoraTarget } from "#precis/models/decoder-io.js";
import { EngineSession, floatTensor } from "#precis/runtime/engine-session.js";
import { layoutParameters, loraName } from "#precis/train/parameters.js";
import { TrainedTensors } from "#precis/train/trained-tensors.js";
import { tinyTraining, type TinyTraining } from "./tiny-training.js";

const RANK = 2;
const [Q, K, V] = ["q", "k", "v"].map((name): LoraTarget => `self_attn.${name}_proj`);

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining({ layers: 3 });
});
afterAll(() => tiny[Symbol.asyncDispose]());

/** Matrices of the second layer, and where the vector has them; elements of the vector are their own indices. */
async function matrices(outputs?: readonly LoraTarget[]) {
  const { config } = tiny.base;
  const layout = layoutParameters(config, { rank: RANK, targets: [Q, V], compTokens: 2 });
  const make = (): GraphBuilder => {
    const graph = new GraphBuilder("test", "primitive");
    const vector = graph.input("vector", "float32", [layout.size]);
    const tensors = new TrainedTensors(graph, config, vector, layout, "float32");
    const { a, b } = tensors.lora(1, [Q, V], outputs);
    [a, ...b].forEach(({ matrix, turned }, index) => {
      graph.output(matrix, `matrix ${index}`);
      graph.output(turned, `turned ${index}`);
    });
    return graph;
  };
  await using session = await EngineSession.create(make, { weightsFolder: tmpdir(), device: "cpu", threads: 1 });
  const names = make().outputs.map(({ name }) => name);
  const vector = floatTensor(
    Float32Array.from({ length: layout.size }, (_, i) => i),
    [layout.size],
  );
  const results = await session.run({ vector }, names);
  /** Element [row, column] of the matrix that a slice holds in the second layer. */
  const at = (side: "a" | "b", target: LoraTarget, row: number, column: number): number => {
    const slice = layout.slices.find(({ name }) => name === loraName(side, 1, target));
    if (slice === undefined) throw new Error(`The vector has no ${side} of ${target}.`);
    return slice.offset + row * slice.shape[1] + column;
  };
  return { results, at, hidden: config.hiddenSize, queries: config.queryHeads * config.headDim };
}

describe("matrices of one layer", () => {
  test("all A of one input stand side by side, and each B is there turned and as stored", async () => {
    const { results, at, hidden, queries } = await matrices();
    const [a, ofQ, ofV] = [0, 1, 2].map((index) => results[`matrix ${index}`]);
    expect(a.dims).toEqual([hidden, 2 * RANK]);
    expect(Number(a.data[5 * 2 * RANK + 1])).toBe(at("a", Q, 1, 5));
    expect(Number(a.data[5 * 2 * RANK + RANK])).toBe(at("a", V, 0, 5));
    expect(Number(results["turned 0"].data[hidden + 5])).toBe(at("a", Q, 1, 5));
    expect(ofQ.dims).toEqual([RANK, queries]);
    expect(Number(ofQ.data[queries + 3])).toBe(at("b", Q, 3, 1));
    expect(Number(ofV.data[3])).toBe(at("b", V, 3, 0));
    expect(Number(results["turned 1"].data[3 * RANK + 1])).toBe(at("b", Q, 3, 1));
  });

  test("for a joined product each B meets its own outputs and nothing else", async () => {
    const { results, at, queries } = await matrices([Q, K, V]);
    const { dims, data } = results["matrix 1"];
    const [ranks, width] = dims;
    expect(ranks).toBe(2 * RANK);
    const values = (width - queries) / 2;
    expect(Number(data[width + 3])).toBe(at("b", Q, 3, 1));
    expect(Number(data[(RANK + 1) * width + queries + values + 3])).toBe(at("b", V, 3, 1));
    const zero = (row: number, column: number): boolean => Number(data[row * width + column]) === 0;
    const columns = Array.from({ length: width }, (_, column) => column);
    expect(columns.filter((column) => zero(1, column))).toEqual(columns.slice(queries));
    expect(columns.filter((column) => zero(RANK, column))).toEqual(columns.slice(0, queries + values));
  });
});
