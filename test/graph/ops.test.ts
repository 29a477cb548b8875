/** @file Every op of the graph builder, run on ONNX Runtime, against plain loops. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, describe, expect, test } from "vitest";

import type { GraphBuilder, Value } from "#precis/graph/builder.js";
import { rotary } from "#precis/graph/ops/attention.js";
import { add, cast, gelu, mul, softcap, swiglu } from "#precis/graph/ops/elementwise.js";
import { linear, matmul, quantizedLinear } from "#precis/graph/ops/linalg.js";
import { concat, gatherRows, reshape, split, transpose } from "#precis/graph/ops/movement.js";
import { rmsNorm, skipRmsNorm } from "#precis/graph/ops/normalization.js";
import { difference } from "../golden/compare.js";
import { expectResult, numbers, plain, runGraph, type Plain } from "./run-graph.js";

const scratch = mkdtempSync(join(tmpdir(), "precis-graph-"));
afterAll(() => rmSync(scratch, { recursive: true }));

describe("elementwise ops", () => {
  const a = plain([2, 3, 4]);
  const b = plain([3, 1], 2);

  test("add and mul broadcast", async () => {
    const [sum, product] = await runGraph({ a, b }, (graph, values) => [
      add(graph, values.a, values.b),
      mul(graph, values.a, values.b),
    ]);
    const other = (at: number): number => b.data[Math.floor(at / 4) % 3];
    expectResult(
      sum,
      [2, 3, 4],
      a.data.map((value, at) => value + other(at)),
    );
    expectResult(
      product,
      [2, 3, 4],
      a.data.map((value, at) => value * other(at)),
    );
  });

  // Abramowitz and Stegun 7.1.26, good to 1.5e-7.
  const erf = (x: number): number => {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const series = [0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429];
    const sum = series.reduceRight((rest, coefficient) => (rest + coefficient) * t, 0);
    return Math.sign(x) * (1 - sum * Math.exp(-x * x));
  };
  test.each<[string, (graph: GraphBuilder, x: Value) => Value, (x: number) => number]>([
    ["SwiGLU", (graph, x) => swiglu(graph, x, x), (x) => (x * x) / (1 + Math.exp(-x))],
    ["gelu", (graph, x) => gelu(graph, x, "none"), (x) => (x / 2) * (1 + erf(x / Math.SQRT2))],
    [
      "gelu, tanh",
      (graph, x) => gelu(graph, x, "tanh"),
      (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    ],
    ["softcap", (graph, x) => softcap(graph, x, 1.5), (x) => Math.tanh(x / 1.5) * 1.5],
  ])("%s", async (_, op, expected) => {
    const [result] = await runGraph({ a }, (graph, values) => [op(graph, values.a)]);
    expectResult(result, a.dims, a.data.map(expected));
  });

  test("cast keeps numbers, and is nothing where the type is the same", async () => {
    const ids: Plain = { dims: [3], data: [1, 200, 3], type: "int64" };
    const [result] = await runGraph({ ids }, (graph, values) => [cast(graph, values.ids, "float32")]);
    expectResult(result, [3], ids.data);
    await runGraph({ a }, (graph, values) => {
      expect(cast(graph, values.a, "float32")).toBe(values.a);
      return [values.a];
    });
  });
});

describe("matrix products", () => {
  const product = (x: readonly number[], w: readonly number[], inner: number, outer: number): number[] =>
    Array.from({ length: (x.length / inner) * outer }, (_, at) => {
      const [row, column] = [Math.floor(at / outer), at % outer];
      let sum = 0;
      for (let k = 0; k < inner; k++) sum += x[row * inner + k] * w[column * inner + k];
      return sum;
    });

  test("matmul over the last axes, with broadcast leading ones", async () => {
    const [x, y] = [plain([2, 3, 4]), plain([4, 5], 3)];
    const [result] = await runGraph({ x, y }, (graph, values) => [matmul(graph, values.x, values.y)]);
    const turned = Array.from({ length: 20 }, (_, at) => y.data[(at % 4) * 5 + Math.floor(at / 4)]);
    expectResult(result, [2, 3, 5], product(x.data, turned, 4, 5));
  });

  test("linear with a weight as checkpoints store it", async () => {
    const [x, w] = [plain([2, 3, 4]), plain([5, 4], 3)];
    const [result] = await runGraph({ x, w }, (graph, values) => [linear(graph, values.x, values.w)]);
    expectResult(result, [2, 3, 5], product(x.data, w.data, 4, 5));
  });

  test("linear of rank zero is zero", async () => {
    const [x, a, b] = [plain([1, 3, 4]), plain([0, 4]), plain([5, 0])];
    const [result] = await runGraph({ x, a, b }, (graph, values) => [
      linear(graph, linear(graph, values.x, values.a), values.b),
    ]);
    expectResult(
      result,
      [1, 3, 5],
      Array.from({ length: 15 }, () => 0),
    );
  });

  test.each([8, 4] as const)("quantizedLinear with %i bits", async (bits) => {
    const [inFeatures, outFeatures, blockSize] = [64, 3, 32];
    const x = plain([2, inFeatures]);
    const zero = 2 ** (bits - 1);
    const levels = numbers(outFeatures * inFeatures, 5).map((value) => zero + Math.round((value / 2) * (zero - 1)));
    const scales = numbers(outFeatures * 2, 6).map((value) => 0.01 + Math.abs(value) / 50);
    const bytes = bits === 8 ? levels : levels.flatMap((low, i) => (i % 2 === 0 ? [low + 16 * levels[i + 1]] : []));
    const blocks: Plain = { dims: [outFeatures, 2, (blockSize * bits) / 8], data: bytes, type: "uint8" };
    const weight = levels.map((level, at) => (level - zero) * scales[Math.floor(at / blockSize)]);
    const [result] = await runGraph(
      { x, blocks, scales: { dims: [outFeatures * 2], data: scales } },
      (graph, values) => [quantizedLinear(graph, values.x, { ...values, bits, blockSize, outFeatures, inFeatures })],
    );
    // The kernel rounds activations to int8 per block.
    const expected = product(x.data, weight, inFeatures, outFeatures);
    const scale = Math.max(...expected.map(Math.abs));
    expected.forEach((value, i) => expect(Math.abs(result.data[i] - value)).toBeLessThan(0.02 * scale));
  });
});

describe("movement ops", () => {
  const x = plain([2, 3, 4]);
  const at = (i: number, j: number, k: number): number => x.data[(i * 3 + j) * 4 + k];

  test("reshape, transpose, split and concat", async () => {
    const results = await runGraph({ x }, (graph, values) => {
      const [first, second] = split(graph, values.x, [1, 3], -1);
      return [
        reshape(graph, values.x, [6, 4]),
        transpose(graph, values.x, [2, 0, 1]),
        first,
        second,
        concat(graph, [second, first], 2),
      ];
    });
    const all = (fn: (i: number, j: number, k: number) => number, dims: readonly number[]): number[] =>
      Array.from({ length: dims[0] * dims[1] * dims[2] }, (_, n) =>
        fn(Math.floor(n / dims[1] / dims[2]), Math.floor(n / dims[2]) % dims[1], n % dims[2]),
      );
    expectResult(results[0], [6, 4], x.data);
    expectResult(
      results[1],
      [4, 2, 3],
      all((k, i, j) => at(i, j, k), [4, 2, 3]),
    );
    expectResult(
      results[2],
      [2, 3, 1],
      all((i, j) => at(i, j, 0), [2, 3, 1]),
    );
    expectResult(
      results[3],
      [2, 3, 3],
      all((i, j, k) => at(i, j, k + 1), [2, 3, 3]),
    );
    expectResult(
      results[4],
      [2, 3, 4],
      all((i, j, k) => at(i, j, (k + 1) % 4), [2, 3, 4]),
    );
  });

  test("gatherRows", async () => {
    const table = plain([5, 3]);
    const ids: Plain = { dims: [2, 2], data: [4, 0, 2, 2], type: "int64" };
    const [result] = await runGraph({ table, ids }, (graph, values) => [gatherRows(graph, values.table, values.ids)]);
    expectResult(
      result,
      [2, 2, 3],
      ids.data.flatMap((id) => table.data.slice(id * 3, id * 3 + 3)),
    );
  });
});

test("skipRmsNorm gives the sum of its inputs, and what rmsNorm makes of it", async () => {
  const [x, skip, weight] = [plain([2, 3, 4]), plain([2, 3, 4], 2), plain([4], 3)];
  const [normed, sum, expected, plainSum] = await runGraph({ x, skip, weight }, (graph, values) => {
    const both = skipRmsNorm(graph, values.x, values.skip, values.weight, 0.1);
    const added = add(graph, values.x, values.skip);
    return [both.normed, both.sum, rmsNorm(graph, added, values.weight, 0.1), added];
  });
  expect(difference(sum.data, plainSum.data)).toBeLessThan(1e-6);
  expect(difference(normed.data, expected.data)).toBeLessThan(1e-5);
});

test("rmsNorm divides by the root mean square of the last axis", async () => {
  const [x, weight] = [plain([2, 4]), plain([4], 2)];
  const [result] = await runGraph({ x, weight }, (graph, values) => [rmsNorm(graph, values.x, values.weight, 0.1)]);
  const expected = x.data.map((value, i) => {
    const row = x.data.slice(i - (i % 4), i - (i % 4) + 4);
    return (value / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / 4 + 0.1)) * weight.data[i % 4];
  });
  expectResult(result, [2, 4], expected);
});

test.each([4, 2])("rotary turns the first elements of each head in pairs (rotaryDim / 2 = %i)", async (pairs) => {
  const [x, angles] = [plain([2, 3, 16]), plain([2, 3, pairs], 4).data];
  const table = (fn: (angle: number) => number): Plain => ({ dims: [2, 3, pairs], data: angles.map(fn) });
  const [result] = await runGraph({ x, cos: table(Math.cos), sin: table(Math.sin) }, (graph, values) => [
    rotary(graph, values.x, values.cos, values.sin, 2),
  ]);
  const expected = x.data.map((value, i) => {
    const inHead = i % 8;
    if (inHead >= 2 * pairs) return value;
    const angle = angles[Math.floor(i / 16) * pairs + (inHead % pairs)];
    const partner = x.data[inHead < pairs ? i + pairs : i - pairs];
    return value * Math.cos(angle) + (inHead < pairs ? -1 : 1) * partner * Math.sin(angle);
  });
  expectResult(result, [2, 3, 16], expected);
});

test("rotary by rows of a table turns each token as the row that it names", async () => {
  const [x, cos, sin] = [plain([2, 3, 16]), plain([5, 4], 4), plain([5, 4], 5)];
  const rows: Plain = { dims: [2, 3], data: [0, 1, 1, 4, 0, 2], type: "int64" };
  const ofTokens = ({ data }: Plain): Plain => ({
    dims: [2, 3, 4],
    data: rows.data.flatMap((row) => data.slice(4 * row, 4 * row + 4)),
  });
  const [byRows] = await runGraph({ x, cos, sin, rows }, (graph, values) => [
    rotary(graph, values.x, values.cos, values.sin, 2, values.rows),
  ]);
  const [byTokens] = await runGraph({ x, cos: ofTokens(cos), sin: ofTokens(sin) }, (graph, values) => [
    rotary(graph, values.x, values.cos, values.sin, 2),
  ]);
  expect(byRows).toEqual(byTokens);
});

test("weights are read from a file beside the graph, at their offset", async () => {
  writeFileSync(join(scratch, "weights.bin"), new Uint8Array(Float32Array.from([9, 9, 1, 2, 3, 4]).buffer));
  const x = plain([1, 2]);
  const [result] = await runGraph(
    { x },
    (graph, values) => {
      const place = { location: "weights.bin", offset: 8, length: 16 };
      return [linear(graph, values.x, graph.weight("w", "float32", [2, 2], place))];
    },
    scratch,
  );
  const [a, b] = x.data;
  expectResult(result, [1, 2], [a + 2 * b, 3 * a + 4 * b]);
});
