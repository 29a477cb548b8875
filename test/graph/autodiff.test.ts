/** @file Gradients of every op against finite differences. */

import { describe, expect, test } from "vitest";

import { VJP_RULES } from "#precis/graph/autodiff.js";
import type { GraphBuilder, Value } from "#precis/graph/builder.js";
import { attention, rotary } from "#precis/graph/ops/attention.js";
import * as elementwise from "#precis/graph/ops/elementwise.js";
import { matmul } from "#precis/graph/ops/linalg.js";
import { concat, expand, pickRows, reshape, slice, split, transpose } from "#precis/graph/ops/movement.js";
import { rmsNorm, skipRmsNorm } from "#precis/graph/ops/normalization.js";
import { logSumExp, reduceMax, reduceMean, reduceSum, rowProduct, softmax } from "#precis/graph/ops/reduction.js";
import { matricesOf, turnedProduct } from "#precis/graph/ops/stacked.js";
import { expectGradients } from "./autodiff-check.js";
import { plain, type Plain } from "./run-graph.js";

const { add, sub, mul, div, exp, log, sqrt, swiglu, gelu, softcap, cast, equals } = elementwise;

/** Values from 0.5 to 4.5, for functions that need positive ones. */
function positive(dims: readonly number[], seed?: number): Plain {
  const { data } = plain(dims, seed);
  return { dims, data: data.map((value) => 2.5 + value) };
}

/** An op of one input. */
type Unary = (graph: GraphBuilder, x: Value) => Value;

const COS_SIN = { cos: plain([2, 3, 2], 5), sin: plain([2, 3, 2], 6) };
const picked: Plain = { dims: [2], data: [3, 0], type: "int64" };
/** Where each of five rows was picked; 2 stands for nowhere. */
const inverse: Plain = { dims: [5], data: [1, 2, 2, 0, 2], type: "int64" };

/** Cases by the op type whose rule they try. */
const UNARY: Record<string, readonly [Plain, Unary][]> = {
  Identity: [[plain([2, 3]), (graph, x) => graph.node({ opType: "Identity", inputs: [x], outputs: [x] })[0]]],
  Cast: [[plain([2, 3]), (graph, x) => cast(graph, x, "float32")]],
  Exp: [[plain([2, 3]), exp]],
  Log: [[positive([2, 3]), log]],
  Sqrt: [[positive([2, 3]), sqrt]],
  Sigmoid: [[plain([2, 5]), (graph, x) => graph.node({ opType: "Sigmoid", inputs: [x], outputs: [x] })[0]]],
  Tanh: [
    [plain([2, 5]), (graph, x) => softcap(graph, x, 1.5)],
    [plain([2, 5]), (graph, x) => gelu(graph, x, "tanh")],
  ],
  Erf: [[plain([2, 5]), (graph, x) => gelu(graph, x, "none")]],
  ReduceSum: [
    [plain([2, 3, 2]), (graph, x) => reduceSum(graph, x, [1], true)],
    [plain([2, 2]), (graph, x) => reduceSum(graph, x, [0], false)],
    [plain([3, 3, 3]), (graph, x) => reduceSum(graph, x, [0, 2], false)],
    [plain([2, 1, 2]), (graph, x) => reduceSum(graph, x, [0, 1, 2], false)],
  ],
  ReduceMean: [
    [plain([2, 4]), (graph, x) => reduceMean(graph, x, [-1], true)],
    [plain([3, 3]), (graph, x) => reduceMean(graph, x, [0], false)],
  ],
  Softmax: [
    [plain([2, 4]), softmax],
    [plain([1, 2, 3]), softmax],
  ],
  Reshape: [[plain([2, 6]), (graph, x) => reshape(graph, x, [3, 2, 2])]],
  Expand: [
    [plain([2, 1, 3]), (graph, x) => expand(graph, x, [2, 4, 3])],
    [plain([3]), (graph, x) => expand(graph, x, [2, 3])],
  ],
  Transpose: [
    [plain([2, 3]), (graph, x) => transpose(graph, x, [1, 0])],
    [plain([2, 3, 4]), (graph, x) => transpose(graph, x, [2, 0, 1])],
  ],
  Split: [
    [
      plain([2, 5]),
      (graph, x) => mul(graph, ...(split(graph, x, [2, 1, 2], -1).filter((_, i) => i !== 1) as [Value, Value])),
    ],
    [plain([4, 2]), (graph, x) => split(graph, x, [1, 3], 0)[1]],
  ],
  Slice: [
    [plain([2, 5]), (graph, x) => slice(graph, x, -1, 1, 3)],
    [plain([4, 2]), (graph, x) => slice(graph, x, 0, 0, 3)],
  ],
};

/** Shapes of two inputs that broadcast to one. */
const BROADCASTS: readonly [readonly number[], readonly number[]][] = [
  [
    [2, 3],
    [2, 3],
  ],
  [[2, 3], [3]],
  [
    [1, 3],
    [2, 1],
  ],
  [
    [2, 1, 3],
    [4, 1],
  ],
  [[2, 2], []],
];

describe("gradients equal finite differences", () => {
  test.each(
    Object.entries(UNARY).flatMap(([op, cases]) =>
      cases.map(([x, build]) => [op, x.dims.join("×"), x, build] as const),
    ),
  )("%s of %s", async (_op, _dims, x, build) => {
    await expectGradients({ x }, (graph, values) => build(graph, values.x));
  });

  const binary = { Add: add, Sub: sub, Mul: mul, Div: div };
  const cases = Object.entries(binary).flatMap(([op, build]) =>
    BROADCASTS.map(([a, b]) => [op, `[${a.join()}]`, `[${b.join()}]`, a, b, build] as const),
  );
  test.each(cases)("%s of %s and %s", async (_op, _a, _b, a, b, build) => {
    await expectGradients({ a: plain(a), b: positive(b, 2) }, (graph, values) => build(graph, values.a, values.b));
  });

  const PRODUCTS: readonly [readonly number[], readonly number[]][] = [
    [
      [2, 3],
      [3, 4],
    ],
    [
      [2, 2, 3],
      [3, 2],
    ],
    [
      [2, 2, 3],
      [2, 3, 2],
    ],
    [
      [2, 3],
      [2, 3, 2],
    ],
    [
      [2, 1, 2, 3],
      [1, 2, 3, 2],
    ],
    // Wide and narrow factors; a shared matrix that is small beside the rows, and one that is not.
    [
      [2, 8, 2],
      [2, 3],
    ],
    [
      [2, 8, 3],
      [3, 2],
    ],
    [
      [2, 1, 4],
      [4, 5],
    ],
    [
      [2, 1, 5],
      [5, 4],
    ],
  ];
  test.each(PRODUCTS)("MatMul of %j and %j", async (a, b) => {
    await expectGradients({ a: plain(a), b: plain(b, 2) }, (graph, values) => matmul(graph, values.a, values.b));
  });

  test("Concat of unequal parts, one of them twice", async () => {
    const inputs = { a: plain([2, 1, 2]), b: plain([2, 3, 2], 2) };
    await expectGradients(inputs, (graph, { a, b }) => concat(graph, [a, b, a], 1));
  });

  test("RMS norm by its input and by its weight", async () => {
    const inputs = { x: plain([2, 2, 4]), weight: positive([4], 3) };
    await expectGradients(inputs, (graph, { x, weight }) => rmsNorm(graph, x, weight, 1e-5));
  });

  test("a residual sum and its norm, of which either output or both are read", async () => {
    const inputs = { x: plain([2, 2, 4]), skip: plain([2, 2, 4], 2), weight: positive([4], 3) };
    const outputs = (graph: GraphBuilder, { x, skip, weight }: Record<"x" | "skip" | "weight", Value>) =>
      skipRmsNorm(graph, x, skip, weight, 1e-5);
    await expectGradients(inputs, (graph, values) => {
      const { normed, sum } = outputs(graph, values);
      return mul(graph, normed, sum);
    });
    await expectGradients(inputs, (graph, values) => outputs(graph, values).normed);
    await expectGradients<keyof typeof inputs>(inputs, (graph, values) => outputs(graph, values).sum, {
      frozen: ["weight"],
    });
  });

  test("SwiGLU by its gate and by what it lets through", async () => {
    const inputs = { gate: plain([2, 5]), up: plain([2, 5], 2) };
    await expectGradients(inputs, (graph, { gate, up }) => swiglu(graph, gate, up));
    await expectGradients({ x: plain([2, 5]) }, (graph, { x }) => swiglu(graph, x, x));
  });

  test.each([
    ["in parts by row of a batch", [2, 8, 4], 2],
    ["in parts, with a wide output", [2, 8, 2], 4],
    ["in one part", [2, 1, 4], 5],
    ["of rows without a batch", [3, 4], 2],
  ])("products with the matrices of a stack, %s", async (_name, dims, outer) => {
    const layers = 17;
    const inner = dims[dims.length - 1] as number;
    const inputs = { x: plain(dims), stack: plain([layers, inner, outer], 2) };
    await expectGradients(inputs, (graph, { x, stack }) =>
      matricesOf(graph, stack)
        .filter((_, layer) => layer % 8 === 0 || layer === 1)
        .map((matrix) => turnedProduct(graph, x, matrix))
        .reduce((sum, product) => add(graph, sum, product)),
    );
  });

  test.each([
    ["all", 4],
    ["part", 6],
  ])("rotary embedding of %s of a head", async (_part, headDim) => {
    // Any numbers will do as cosines and sines: the gradient is that of a linear map.
    const inputs = { x: plain([2, 3, 2 * headDim]), ...COS_SIN };
    await expectGradients<"x" | "cos" | "sin">(inputs, (graph, { x, cos, sin }) => rotary(graph, x, cos, sin, 2), {
      frozen: ["cos", "sin"],
    });
  });

  test("rotary embedding by rows of a table that tokens share", async () => {
    const rows: Plain = { dims: [2, 3], data: [0, 1, 1, 3, 0, 1], type: "int64" };
    const inputs = { x: plain([2, 3, 8]), cos: plain([4, 2], 5), sin: plain([4, 2], 6), rows };
    await expectGradients<"x" | "cos" | "sin" | "rows">(
      inputs,
      (graph, { x, cos, sin, rows: tableRows }) => rotary(graph, x, cos, sin, 2, tableRows),
      { frozen: ["cos", "sin"] },
    );
  });

  test("rows picked from a matrix, and rows that were not", async () => {
    await expectGradients({ table: plain([5, 3]), picked, inverse }, (graph, values) =>
      pickRows(graph, values.table, values.picked, values.inverse),
    );
  });

  test.each([
    ["without a past", false],
    ["with a past", true],
  ])("attention with shared heads %s", async (_name, hasPast) => {
    const inputs = { q: plain([2, 2, 8]), k: plain([2, 2, 4], 2), v: plain([2, 2, 4], 3) };
    const past = { pastKeys: plain([2, 2, 1, 2], 5), pastValues: plain([2, 2, 1, 2], 6) };
    const bias = plain([2, 1, 2, hasPast ? 3 : 2], 4);
    await expectGradients({ ...inputs, ...past, bias }, (graph, values) => {
      const { q, k, v, bias: attentionBias, pastKeys, pastValues } = values;
      const rows = { queries: q, keys: k, values: v, attentionBias, queryHeads: 4, kvHeads: 2, scale: 0.7 };
      const [output] = attention(graph, hasPast ? { ...rows, pastKeys, pastValues } : rows);
      // Inputs that are not used still have to count, or they would be refused.
      const unused = hasPast ? [] : [pastKeys, pastValues];
      return unused.reduce((sum, value) => add(graph, sum, reduceSum(graph, value, [0, 1, 2, 3], false)), output);
    });
  });

  test.each([
    ["two uneven blocks and shared heads", [2, 3], 2],
    ["three blocks and a head each", [1, 2, 1], 4],
  ])("attention in causal blocks: %s", async (_name, rows, kvHeads) => {
    const seq = rows.reduce((sum, count) => sum + count, 0);
    const ends = rows.map((_, block) => rows.slice(0, block + 1).reduce((sum, count) => sum + count, 0));
    const biases = Object.fromEntries(
      rows.map((count, block) => [`bias${block}`, plain([2, 1, count, ends[block]], 10 + block)]),
    );
    const inputs = { q: plain([2, seq, 8]), k: plain([2, seq, 2 * kvHeads], 2), v: plain([2, seq, 2 * kvHeads], 3) };
    await expectGradients<string>({ ...inputs, ...biases }, (graph, values) => {
      const attentionBias = rows.map((_, block) => values[`bias${block}`]);
      const { q, k, v } = values;
      const spec = { queries: q, keys: k, values: v, attentionBias, queryHeads: 4, kvHeads, scale: 0.7 };
      return attention(graph, spec)[0];
    });
  });

  test("a loss with a maximum taken out, as cross entropy has it", async () => {
    await expectGradients({ x: plain([3, 4]) }, (graph, { x }) => {
      const shifted = sub(graph, x, reduceMax(graph, x, [1], true));
      return sub(graph, log(graph, reduceSum(graph, exp(graph, shifted), [1], true)), shifted);
    });
  });

  test("the logarithm of a sum of exponentials", async () => {
    await expectGradients({ x: plain([3, 4]) }, (graph, { x }) => logSumExp(graph, x).normalizer);
  });

  test("products of rows", async () => {
    const inputs = { a: plain([2, 3, 4]), b: plain([2, 3, 4], 2) };
    await expectGradients(inputs, (graph, { a, b }) => rowProduct(graph, a, b));
    await expectGradients(inputs, (graph, { a, b }) => rowProduct(graph, mul(graph, a, b), b));
  });

  test("attention whose weights are used too", async () => {
    const inputs = {
      q: plain([2, 2, 8]),
      k: plain([2, 2, 4], 2),
      v: plain([2, 2, 4], 3),
      bias: plain([2, 1, 2, 2], 4),
    };
    await expectGradients(inputs, (graph, { q, k, v, bias: attentionBias }) => {
      const rows = { queries: q, keys: k, values: v, attentionBias, queryHeads: 4, kvHeads: 2, scale: 0.7 };
      const [output, weights] = attention(graph, { ...rows, returnWeights: true });
      const sum = reduceSum(graph, mul(graph, weights as Value, weights as Value), [1, 2, 3], true);
      return add(graph, output, reshape(graph, sum, [2, 1, 1]));
    });
  });

  test("a value that is used several times gets the sum of its gradients", async () => {
    await expectGradients({ x: plain([2, 3]), w: plain([3, 3], 2) }, (graph, { x, w }) => {
      const h = mul(graph, x, x);
      return add(graph, add(graph, matmul(graph, h, w), h), matmul(graph, x, transpose(graph, w, [1, 0])));
    });
  });

  test("comparisons count as constants", async () => {
    await expectGradients({ a: plain([2, 3]), b: plain([2, 3], 2) }, (graph, { a, b }) =>
      add(graph, mul(graph, a, equals(graph, b, b)), b),
    );
  });

  test("every rule has been tried", () => {
    const tried = [...Object.keys(UNARY), ...Object.keys(binary), "MatMul", "Concat"];
    const rules = [...tried, "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "RotaryEmbedding"];
    // Sums, means and slices bring their rules along.
    const own = ["ReduceSum", "ReduceMean", "Slice"];
    expect(rules.filter((op) => !own.includes(op)).sort()).toEqual(Object.keys(VJP_RULES).sort());
  });
});
