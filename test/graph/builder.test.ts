/** @file Mistakes in a graph are found as it is built, and what is built is what ONNX reads. */

import { onnx } from "onnx-proto";
import { describe, expect, test } from "vitest";

import { formatShape, GraphBuilder, type Value } from "#precis/graph/builder.js";
import { attention, rotary, type AttentionSpec } from "#precis/graph/ops/attention.js";
import { add, mul } from "#precis/graph/ops/elementwise.js";
import { linear, matmul } from "#precis/graph/ops/linalg.js";
import { concat, reshape, split, transpose } from "#precis/graph/ops/movement.js";
import { rmsNorm } from "#precis/graph/ops/normalization.js";

describe("shape errors name the node, the problem and what was given", () => {
  const cases: [string, RegExp, (graph: GraphBuilder, x: Value) => unknown][] = [
    [
      "matmul",
      /layer\.3\.MatMul inner axes differ \(given x \[batch, 4, 6\], w \[5, 6\]\)/,
      (g, x) => matmul(g, x, w(g)),
    ],
    ["linear", /layer\.3\.FusedMatMul inner axes differ/, (g, x) => linear(g, x, g.input("w", "float32", [6, 5]))],
    ["linear rank", /FusedMatMul needs 2 axes/, (g, x) => linear(g, x, x)],
    ["add", /layer\.3\.Add cannot broadcast axis -1: 6 against 5/, (g, x) => add(g, x, g.input("w", "float32", [5]))],
    ["dtypes", /Mul mixes float32 and int64/, (g, x) => mul(g, x, g.integers([1]))],
    ["reshape", /Reshape element count differs from \[batch, 5, 5\]/, (g, x) => reshape(g, x, ["batch", 5, 5])],
    ["reshape symbols", /Reshape cannot infer two axes of \[a, b\]/, (g, x) => reshape(g, x, ["a", "b"])],
    ["transpose", /Transpose order 0,0,1 does not name every axis once/, (g, x) => transpose(g, x, [0, 0, 1])],
    ["split", /Split pieces 4 \+ 4 do not fill axis -1/, (g, x) => split(g, x, [4, 4], -1)],
    ["split symbolic", /Split needs a fixed size on axis 0/, (g, x) => split(g, x, [1], 0)],
    ["concat", /Concat parts differ on an axis other than 2/, (g, x) => concat(g, [x, w(g)], -1)],
    [
      "norm",
      /SimplifiedLayerNormalization weight does not fit the last axis/,
      (g, x) => rmsNorm(g, x, g.floats([1]), 1),
    ],
    [
      "rotary",
      /RotaryEmbedding cannot turn 8 of 6 elements/,
      (g, x) => rotary(g, x, table(g, "cos"), table(g, "sin"), 1),
    ],
    ["attention heads", /Attention cannot share 2 heads among 3/, (g, x) => attend(g, x, 3, 2)],
    ["attention bias", /Attention bias must cover past \+ 4 keys/, (g, x) => attend(g, x, 1, 1)],
    ["axis", /MatMul has no axis -2/, (g, x) => matmul(g, g.floats([1, 2]), x)],
  ];
  const w = (graph: GraphBuilder): Value => graph.input("w", "float32", [5, 6]);
  const table = (graph: GraphBuilder, name: string): Value => graph.input(name, "float32", ["batch", 4, 4]);
  function attend(graph: GraphBuilder, x: Value, queryHeads: number, kvHeads: number): unknown {
    const past = graph.input("past", "float32", ["batch", 1, "past", 6]);
    const attentionBias = graph.input("bias", "float32", ["batch", 1, 4, 4]);
    const rows = { queries: x, keys: x, values: x, pastKeys: past, pastValues: past };
    return attention(graph, { ...rows, attentionBias, queryHeads, kvHeads, scale: 1 });
  }

  test.each(cases)("%s", (_, message, build) => {
    const attempt = (): unknown => {
      const graph = new GraphBuilder("model");
      const x = graph.input("x", "float32", ["batch", 4, 6]);
      return graph.scope("layer.3", () => build(graph, x));
    };
    expect(attempt).toThrow(message);
    expect(attempt).toThrow(expect.objectContaining({ code: "GRAPH_INVALID" }));
  });

  test.each<[string, RegExp, GraphBuilder["form"], (readonly number[])[], Partial<AttentionSpec>]>([
    [
      "to a fused kernel",
      /no causal blocks in its fused form/,
      "fused",
      [
        [2, 2],
        [2, 4],
      ],
      {},
    ],
    [
      "that leave keys out",
      /block must cover 4 keys/,
      "primitive",
      [
        [2, 2],
        [2, 3],
      ],
      {},
    ],
    [
      "that leave queries out",
      /blocks must cover all queries/,
      "primitive",
      [
        [1, 1],
        [2, 3],
      ],
      {},
    ],
    [
      "with weights",
      /neither with a past nor with weights/,
      "primitive",
      [
        [2, 2],
        [2, 4],
      ],
      { returnWeights: true },
    ],
  ])("attention is not given causal blocks %s", (_, message, form, blocks, changes) => {
    const graph = new GraphBuilder("model", form);
    const x = graph.input("x", "float32", [3, 4, 6]);
    const attentionBias = blocks.map(([rows, end], i) => graph.input(`bias${i}`, "float32", [3, 1, rows, end]));
    const spec = { queries: x, keys: x, values: x, attentionBias, queryHeads: 2, kvHeads: 2, scale: 1, ...changes };
    expect(() => attention(graph, spec)).toThrow(message);
  });

  test("names are used once, and weights have the bytes of their shape", () => {
    const graph = new GraphBuilder("model");
    graph.input("x", "float32", [2]);
    expect(() => graph.input("x", "float32", [2])).toThrow(/"model": x is already the name of another value/);
    expect(() => graph.weight("w", "float16", [2, 3], new Uint8Array(10))).toThrow(
      /w has 10 bytes but shape \[2, 3\] of float16 needs 12/,
    );
  });
});

describe("building", () => {
  test("nodes of one scope get distinct names, equal constants are stored once", () => {
    const graph = new GraphBuilder("model");
    const x = graph.input("x", "float32", ["batch", 2]);
    const twice = graph.scope("block", () => add(graph, add(graph, x, graph.floats([1, 2])), graph.floats([1, 2])));
    expect(graph.nodes.map(({ name }) => name)).toEqual(["block.Add", "block.Add_1"]);
    expect(graph.initializers).toHaveLength(1);
    expect(twice.shape).toEqual(["batch", 2]);
    expect(formatShape(twice.shape)).toBe("[batch, 2]");
  });

  test("a scope that throws is left", () => {
    const graph = new GraphBuilder("model");
    expect(() =>
      graph.scope("broken", () => {
        throw new Error("no");
      }),
    ).toThrow("no");
    expect(graph.path("after")).toBe("after");
  });

  test("shapes are inferred through symbolic axes", () => {
    const graph = new GraphBuilder("model");
    const x = graph.input("x", "float32", ["batch", "seq", 8]);
    expect(reshape(graph, x, ["batch", "seq", 2, 4]).shape).toEqual(["batch", "seq", 2, 4]);
    expect(reshape(graph, x, ["tokens", 8]).shape).toEqual(["tokens", 8]);
    expect(transpose(graph, x, [2, 0, 1]).shape).toEqual([8, "batch", "seq"]);
    expect(split(graph, x, [3, 5], -1).map(({ shape }) => shape[2])).toEqual([3, 5]);
    const past = graph.input("past", "float32", ["batch", "past", 8]);
    expect(concat(graph, [past, x], 1).shape).toEqual(["batch", "past + seq", 8]);
  });
});

describe("encoding", () => {
  function sample(): onnx.ModelProto {
    const graph = new GraphBuilder("sample");
    const x = graph.input("x", "float32", ["batch", 3]);
    const ids = graph.input("ids", "int64", [2]);
    const place = { location: "weights.safetensors", offset: 2 ** 33, length: 24 };
    const weight = graph.weight("w", "float16", [4, 3], place);
    const inline = graph.weight("bytes", "uint8", [3], Uint8Array.from([1, 2, 255]));
    const [out, extra] = graph.node({
      opType: "Thing",
      domain: "com.microsoft",
      inputs: [x, undefined, weight, inline, ids],
      attributes: {
        whole: 3n,
        negative: -7n,
        float: 2,
        text: "né",
        integers: [1n, -2n, 2n ** 40n],
        floats: [0.5, -1.25],
      },
      outputs: [{ dtype: "float32", shape: ["batch", 4] }, undefined, { dtype: "bool", shape: [] }],
    });
    graph.output(out, "y");
    graph.output(extra, "flag");
    return onnx.ModelProto.decode(graph.encode());
  }

  test("nodes, with their omitted inputs and outputs", () => {
    const { graph, opsetImport } = sample();
    expect(opsetImport.map(({ domain, version }) => [domain, Number(version)])).toEqual([
      ["", 23],
      ["com.microsoft", 1],
    ]);
    expect(graph?.name).toBe("sample");
    const [thing, identity] = graph?.node ?? [];
    expect(thing).toMatchObject({ opType: "Thing", domain: "com.microsoft", input: ["x", "", "w", "bytes", "ids"] });
    expect(thing?.output).toEqual(["Thing", "", "Thing:2"]);
    expect(identity).toMatchObject({ opType: "Identity", input: ["Thing"], output: ["y"] });
  });

  test("attributes keep their kinds", () => {
    const [thing] = sample().graph?.node ?? [];
    const attributes = Object.fromEntries((thing?.attribute ?? []).map((attribute) => [attribute.name, attribute]));
    const { INT, FLOAT, STRING, INTS, FLOATS } = onnx.AttributeProto.AttributeType;
    expect([attributes["whole"]?.type, Number(attributes["whole"]?.i)]).toEqual([INT, 3]);
    expect([attributes["negative"]?.type, Number(attributes["negative"]?.i)]).toEqual([INT, -7]);
    expect([attributes["float"]?.type, attributes["float"]?.f]).toEqual([FLOAT, 2]);
    expect([attributes["text"]?.type, Buffer.from(attributes["text"]?.s ?? []).toString()]).toEqual([STRING, "né"]);
    expect([attributes["integers"]?.type, attributes["integers"]?.ints?.map(Number)]).toEqual([INTS, [1, -2, 2 ** 40]]);
    expect([attributes["floats"]?.type, attributes["floats"]?.floats]).toEqual([FLOATS, [0.5, -1.25]]);
  });

  test("inputs, outputs and weights, inside and outside", () => {
    const { graph } = sample();
    const shapeOf = (info: onnx.IValueInfoProto): unknown =>
      info.type?.tensorType?.shape?.dim?.map((dim) => dim.dimParam || Number(dim.dimValue));
    expect(graph?.input?.map((info) => [info.name, info.type?.tensorType?.elemType, shapeOf(info)])).toEqual([
      ["x", 1, ["batch", 3]],
      ["ids", 7, [2]],
    ]);
    expect(graph?.output?.map((info) => [info.name, info.type?.tensorType?.elemType, shapeOf(info)])).toEqual([
      ["y", 1, ["batch", 4]],
      ["flag", 9, []],
    ]);
    const [weight, inline] = graph?.initializer ?? [];
    expect(weight).toMatchObject({ name: "w", dataType: 10, dataLocation: 1 });
    expect(weight?.dims?.map(Number)).toEqual([4, 3]);
    const place = Object.fromEntries((weight?.externalData ?? []).map(({ key, value }) => [key, value]));
    expect(place).toEqual({ location: "weights.safetensors", offset: "8589934592", length: "24" });
    expect(inline).toMatchObject({ name: "bytes", dataType: 2 });
    expect([...(inline?.rawData ?? [])]).toEqual([1, 2, 255]);
  });
});
