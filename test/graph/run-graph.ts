/** @file Runs small graphs on ONNX Runtime with plain arrays. */

import { tmpdir } from "node:os";

import { Tensor } from "onnxruntime-node";
import { expect } from "vitest";

import { GraphBuilder, type Value } from "#precis/graph/builder.js";
import { EngineSession, floatTensor, integerTensor, type Feeds } from "#precis/runtime/engine-session.js";

/** An array with its shape; integers become int64. */
export interface Plain {
  data: readonly number[];
  dims: readonly number[];
  type?: "float32" | "int64" | "uint8";
}

/** What came out. */
export interface Result {
  data: number[];
  dims: readonly number[];
}

function toTensor({ data, dims, type = "float32" }: Plain): Tensor {
  if (type === "float32") return floatTensor(Float32Array.from(data), dims);
  return type === "int64" ? integerTensor(data, dims) : new Tensor("uint8", Uint8Array.from(data), dims);
}

/** Builds a graph with these inputs (declared by their real shapes), runs it once and returns its outputs. */
export async function runGraph<Name extends string>(
  inputs: Readonly<Record<Name, Plain>>,
  build: (graph: GraphBuilder, values: Record<Name, Value>) => readonly Value[],
  folder: string = tmpdir(),
): Promise<Result[]> {
  const make = (): { graph: GraphBuilder; names: string[] } => {
    const graph = new GraphBuilder("test");
    const declared = Object.entries<Plain>(inputs).map(([name, { dims, type = "float32" }]) => [
      name,
      graph.input(name, type, dims),
    ]);
    const outputs = build(graph, Object.fromEntries(declared) as Record<Name, Value>);
    const names = outputs.map((value, index) => {
      graph.output(value, `out${index}`);
      return `out${index}`;
    });
    return { graph, names };
  };
  const { names } = make();
  await using session = await EngineSession.create(() => make().graph, { weightsFolder: folder, device: "cpu" });
  const feeds: Feeds = Object.fromEntries(
    Object.entries<Plain>(inputs).map(([name, value]) => [name, toTensor(value)] as const),
  );
  const results = await session.run(feeds, names);
  return names.map((name) => {
    const tensor = results[name] as Tensor;
    return { data: Array.from(tensor.data as Float32Array, Number), dims: tensor.dims };
  });
}

/** Numbers that look random but are the same every time, within about ±2. */
export function numbers(count: number, seed = 1): number[] {
  return Array.from({ length: count }, (_, i) => 2 * Math.sin((i + 1) * 12.9898 + seed * 78.233));
}

/** An input of this shape filled with {@link numbers}. */
export function plain(dims: readonly number[], seed?: number): Plain {
  const count = dims.reduce((product, size) => product * size, 1);
  return { dims, data: numbers(count, seed) };
}

/** Expects a shape, and numbers equal to so many digits. */
export function expectResult(result: Result, dims: readonly number[], data: readonly number[], digits = 4): void {
  expect(result.dims).toEqual(dims);
  expect(result.data).toHaveLength(data.length);
  data.forEach((value, i) => expect(result.data[i]).toBeCloseTo(value, digits));
}
