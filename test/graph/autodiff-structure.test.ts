/** @file What differentiation leaves out, refuses and computes twice, and the primitive forms that it needs. */

import { tmpdir } from "node:os";

import { describe, expect, test } from "vitest";

import { differentiate } from "#precis/graph/autodiff.js";
import { GraphBuilder, type Value } from "#precis/graph/builder.js";
import { attention } from "#precis/graph/ops/attention.js";
import { add, exp, gelu, mul, scale, swiglu } from "#precis/graph/ops/elementwise.js";
import { linear, matmul } from "#precis/graph/ops/linalg.js";
import { gatherRows, split, transpose } from "#precis/graph/ops/movement.js";
import { logSumExp } from "#precis/graph/ops/reduction.js";
import { EngineSession } from "#precis/runtime/engine-session.js";
import { expectError } from "../conformance/expect-error.js";
import { difference } from "../golden/compare.js";
import { feedsOf, gradientGraph, weightedSum, type Build } from "./autodiff-check.js";
import { numbers, plain, type Plain } from "./run-graph.js";

/** Expects a build-time error. */
function refuses(work: () => unknown, says: RegExp): Promise<void> {
  return expectError((async () => work())(), "GRAPH_INVALID", says);
}

describe("what costs nothing, and what is refused", () => {
  /** Number of nodes that differentiation adds to a chain of products, by what is asked for. */
  function nodesFor(wanted: readonly ("x" | "first" | "second")[]): string[] {
    const graph = new GraphBuilder("chain", "primitive");
    const values = {
      x: graph.input("x", "float32", [2, 3]),
      first: graph.input("first", "float32", [3, 3]),
      second: graph.input("second", "float32", [3, 3]),
    };
    const hidden = mul(graph, matmul(graph, values.x, values.first), matmul(graph, values.x, values.first));
    const loss = weightedSum(graph, matmul(graph, hidden, values.second));
    const before = graph.nodes.length;
    differentiate(
      graph,
      loss,
      wanted.map((name) => values[name]),
    );
    return graph.nodes.slice(before).map(({ opType }) => opType);
  }

  test("frozen weights and what lies below them get no nodes", () => {
    const products = (names: readonly string[]): number => names.filter((name) => name === "MatMul").length;
    // Back to the loss, then one product; nothing of the two products before it.
    expect(products(nodesFor(["second"]))).toBe(1);
    // Through the last product, and one for each use of the first weight; none for x.
    expect(products(nodesFor(["first"]))).toBe(3);
    expect(products(nodesFor(["x", "first", "second"]))).toBe(6);
    expect(nodesFor(["second"]).length).toBeLessThan(nodesFor(["first"]).length);
  });

  test("an op without a rule is refused by name", async () => {
    const graph = new GraphBuilder("fused", "fused");
    const x = graph.input("x", "float32", [2, 3]);
    const weight = graph.input("weight", "float32", [4, 3]);
    const loss = graph.scope("layer", () => weightedSum(graph, linear(graph, x, weight)));
    await refuses(() => differentiate(graph, loss, [weight]), /layer\.FusedMatMul/);
    const table = graph.input("table", "float32", [5, 3]);
    const rows = gatherRows(graph, table, graph.input("rows", "int64", [2]));
    await refuses(() => differentiate(graph, weightedSum(graph, rows), [table]), /Gather/);
  });

  test("an op without a rule below frozen weights is no obstacle", () => {
    const graph = new GraphBuilder("mixed", "primitive");
    const table = graph.input("table", "float32", [5, 3]);
    const weight = graph.input("weight", "float32", [3]);
    const rows = gatherRows(graph, table, graph.input("rows", "int64", [2]));
    expect(differentiate(graph, weightedSum(graph, mul(graph, rows, weight)), [weight])[0].shape).toEqual([3]);
  });

  test("a parameter that the loss does not depend on is refused by name", async () => {
    const graph = new GraphBuilder("apart", "primitive");
    const x = graph.input("x", "float32", [2]);
    const lonely = graph.input("lonely", "float32", [2]);
    await refuses(() => differentiate(graph, weightedSum(graph, x), [x, lonely]), /lonely/);
  });
});

describe("what is computed the short way", () => {
  test("undoing a transposition gives back what was there, and two in a row are one", () => {
    const graph = new GraphBuilder("turns", "primitive");
    const x = graph.input("x", "float32", [2, 3, 4]);
    expect(transpose(graph, transpose(graph, x, [2, 0, 1]), [1, 2, 0])).toBe(x);
    const twice = transpose(graph, transpose(graph, x, [2, 0, 1]), [2, 0, 1]);
    expect(twice).not.toBe(x);
    expect(twice.shape).toEqual([3, 4, 2]);
    expect(graph.makerOf(twice)?.inputValues[0]).toBe(x);
  });

  test("the way back through a linear layer reads its weight as it is stored", () => {
    const graph = new GraphBuilder("linear", "primitive");
    const x = graph.input("x", "float32", [5, 3]);
    const weight = graph.input("weight", "float32", [4, 3]);
    const loss = weightedSum(graph, linear(graph, x, weight));
    const before = graph.nodes.length;
    differentiate(graph, loss, [x]);
    expect(graph.nodes.slice(before).map(({ opType }) => opType)).not.toContain("Transpose");
  });

  test("no Split has more buffers than a WebGPU kernel may have, and its pieces stay in order", () => {
    const graph = new GraphBuilder("pieces", "primitive");
    const sizes = Array.from({ length: 33 }, (_, i) => 1 + (i % 3));
    const pieces = split(graph, graph.input("x", "float32", [2, 66]), sizes, -1);
    expect(pieces.map(({ shape }) => shape)).toEqual(sizes.map((size) => [2, size]));
    expect(Math.max(...graph.nodes.map(({ outputs }) => outputs.length))).toBeLessThan(16);
    expect(split(graph, pieces[0], [1], 1)).toEqual([pieces[0]]);
  });

  test("large logits overflow nowhere", async () => {
    const inputs = { x: { dims: [2, 3], data: [1000, 0, -1000, -500, -500, -500] } };
    const make = (): GraphBuilder => gradientGraph(inputs, ["x"], (graph, { x }) => logSumExp(graph, x).normalizer);
    await using session = await EngineSession.create(make, { weightsFolder: tmpdir(), device: "cpu" });
    const { y } = await session.run(feedsOf(inputs), ["y"]);
    expect(Number(y.data[0])).toBe(1000);
    expect(Number(y.data[1])).toBeCloseTo(-500 + Math.log(3), 4);
  });
});

describe("primitive form equals fused form", () => {
  async function bothForms(inputs: Record<string, Plain>, build: Build<string>): Promise<number> {
    const results: ArrayLike<number>[] = [];
    for (const form of ["fused", "primitive"] as const) {
      const make = (): GraphBuilder => {
        const graph = new GraphBuilder("forms", form);
        const entries = Object.entries(inputs).map(([name, { dims }]) => [name, graph.input(name, "float32", dims)]);
        graph.output(build(graph, Object.fromEntries(entries) as Record<string, Value>), "y");
        return graph;
      };
      await using session = await EngineSession.create(make, { weightsFolder: tmpdir(), device: "cpu" });
      const outputs = await session.run(feedsOf(inputs), ["y"]);
      results.push(Float32Array.from(outputs["y"].data as Float32Array));
    }
    return difference(results[0], results[1]);
  }

  test.each(["none", "tanh"] as const)("GELU, approximate %s", async (approximate) => {
    expect(await bothForms({ x: plain([4, 9]) }, (graph, { x }) => gelu(graph, x, approximate))).toBeLessThan(1e-5);
  });

  test("linear", async () => {
    const inputs = { x: plain([2, 3, 5]), weight: plain([4, 5], 2) };
    expect(await bothForms(inputs, (graph, { x, weight }) => linear(graph, x, weight))).toBeLessThan(1e-5);
  });

  test.each([0, 3])("attention with %i past rows", async (past) => {
    const inputs = { q: plain([2, 3, 16]), k: plain([2, 3, 8], 2), v: plain([2, 3, 8], 3) };
    const bias: Plain = {
      dims: [2, 1, 3, past + 3],
      data: numbers(2 * 3 * (past + 3), 7).map((x) => (x < -1 ? -30_000 : x)),
    };
    const cache = { pastKeys: plain([2, 2, past, 4], 5), pastValues: plain([2, 2, past, 4], 6) };
    const build: Build<string> = (graph, { q, k, v, bias: attentionBias, pastKeys, pastValues }) =>
      attention(graph, {
        queries: q,
        keys: k,
        values: v,
        attentionBias,
        ...(past === 0 ? {} : { pastKeys, pastValues }),
        queryHeads: 4,
        kvHeads: 2,
        scale: 0.5,
      })[0];
    expect(await bothForms({ ...inputs, bias, ...(past === 0 ? {} : cache) }, build)).toBeLessThan(1e-5);
  });
});

describe("recomputation", () => {
  const inputs = { x: plain([2, 3]), w: plain([3, 3], 2), v: plain([3, 3], 3) };
  /** Three blocks of two products; returns the hidden states between them too. */
  function chain(graph: GraphBuilder, { x, w, v }: Record<string, Value>): Value[] {
    const states = [scale(graph, x, 0.5)];
    for (let block = 0; block < 3; block++) {
      const input = states[block];
      const opened = matmul(graph, input, w);
      const inner = swiglu(graph, opened, opened);
      states.push(add(graph, input, matmul(graph, inner, v)));
    }
    return states;
  }

  test("gives the same gradients to the last bit", async () => {
    const results: number[][] = [];
    for (const recompute of [false, true]) {
      let states: Value[] = [];
      const make = (): GraphBuilder =>
        gradientGraph(
          inputs,
          ["x", "w", "v"],
          (graph, values) => {
            states = chain(graph, values);
            return states[3];
          },
          () => ({ checkpoints: recompute ? states : [] }),
        );
      await using session = await EngineSession.create(make, { weightsFolder: tmpdir(), device: "cpu", threads: 1 });
      const names = ["y", "gradient.x", "gradient.w", "gradient.v"];
      const outputs = await session.run(feedsOf(inputs), names);
      results.push(names.flatMap((name) => Array.from(outputs[name].data as Float32Array)));
    }
    expect(results[1]).toEqual(results[0]);
  });

  test("reads nothing from inside a block of the forward pass, and computes nothing that is not read", () => {
    const graph = new GraphBuilder("chain", "primitive");
    const values = Object.fromEntries(
      Object.entries(inputs).map(([name, { dims }]) => [name, graph.input(name, "float32", dims)]),
    );
    const states = chain(graph, values);
    const loss = weightedSum(graph, states[3]);
    const forward = new Set(graph.nodes.flatMap(({ outputs }) => outputs));
    const count = graph.nodes.length;
    const gradients = differentiate(graph, loss, [values["w"], values["v"]], { checkpoints: states });
    const kept = new Set([...states.map(({ name }) => name), loss.name]);
    const backward = graph.nodes.slice(count);
    for (const node of backward) for (const name of node.inputs) if (forward.has(name)) expect(kept).toContain(name);
    // A second computation starts from the checkpoint plus a zero that waits for a gradient, or the engine would merge it
    // with the first one.
    const checkpointReaders = backward.filter(({ inputs: names }) => states.some(({ name }) => names.includes(name)));
    expect(checkpointReaders.map(({ opType }) => opType)).toEqual(["Add", "Add", "Add"]);
    const read = new Set([...backward.flatMap((node) => node.inputs), ...gradients.map(({ name }) => name)]);
    expect(backward.filter((node) => !node.outputs.some((name) => read.has(name)))).toEqual([]);
  });

  test("checkpoints out of order are refused", async () => {
    const graph = new GraphBuilder("chain", "primitive");
    const x = graph.input("x", "float32", [2]);
    const [first, second] = [exp(graph, x), exp(graph, x)];
    const loss = weightedSum(graph, add(graph, first, second));
    await refuses(() => differentiate(graph, loss, [x], { checkpoints: [second, first] }), /not made after/);
  });
});
