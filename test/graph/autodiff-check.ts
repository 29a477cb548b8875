/** @file Compares the gradients of a small graph with finite differences of its outputs. */

import { tmpdir } from "node:os";

import { expect } from "vitest";

import { differentiate, type DifferentiateOptions } from "#precis/graph/autodiff.js";
import { GraphBuilder, type Value } from "#precis/graph/builder.js";
import { mul } from "#precis/graph/ops/elementwise.js";
import { reduceSum } from "#precis/graph/ops/reduction.js";
import { EngineSession, floatTensor, integerTensor, type Feeds } from "#precis/runtime/engine-session.js";
import { numbers, type Plain } from "./run-graph.js";

/** Emits the function under test. */
export type Build<Name extends string> = (graph: GraphBuilder, inputs: Record<Name, Value>) => Value;

/** A scalar that depends on every element of `y` in another way. */
export function weightedSum(graph: GraphBuilder, y: Value): Value {
  const shape = y.shape as number[];
  const count = shape.reduce((product, size) => product * size, 1);
  const weighted = mul(graph, y, graph.floats(numbers(count, 99), shape));
  return shape.length === 0
    ? weighted
    : reduceSum(
        graph,
        weighted,
        shape.map((_, axis) => axis),
        false,
      );
}

/** A graph of the outputs of `build` and the gradients of their weighted sum by the inputs named `wanted`. */
export function gradientGraph<Name extends string>(
  inputs: Readonly<Record<Name, Plain>>,
  wanted: readonly Name[],
  build: Build<Name>,
  options: (graph: GraphBuilder) => DifferentiateOptions = () => ({}),
): GraphBuilder {
  const graph = new GraphBuilder("test", "primitive");
  const declared = Object.entries<Plain>(inputs).map(([name, { dims, type = "float32" }]) => [
    name,
    graph.input(name, type, dims),
  ]);
  const values = Object.fromEntries(declared) as Record<Name, Value>;
  const y = build(graph, values);
  const loss = weightedSum(graph, y);
  const gradients = differentiate(
    graph,
    loss,
    wanted.map((name) => values[name]),
    options(graph),
  );
  graph.output(y, "y");
  gradients.forEach((gradient, index) => graph.output(gradient, `gradient.${wanted[index]}`));
  return graph;
}

/** What a graph is given, by name. */
export function feedsOf(inputs: Readonly<Record<string, Plain>>): Feeds {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, { data, dims, type }]) => [
      name,
      type === "int64" ? integerTensor(data, dims) : floatTensor(Float32Array.from(data), dims),
    ]),
  );
}

const STEP = 0.02;
/** Fourth-order central difference: its error is far below that of float32 at this step. */
const STENCIL: readonly (readonly [steps: number, weight: number])[] = [
  [-2, 1 / 12],
  [-1, -8 / 12],
  [1, 8 / 12],
  [2, -1 / 12],
];

/**
 * Expects the gradients by all float inputs, but for `frozen` ones, to be those that finite differences give.
 * @returns the largest error, relative to the largest element of its gradient
 */
export async function expectGradients<Name extends string>(
  inputs: Readonly<Record<Name, Plain>>,
  build: Build<Name>,
  { frozen = [], tolerance = 1e-3 }: { frozen?: readonly Name[]; tolerance?: number } = {},
): Promise<number> {
  const names = Object.keys(inputs) as Name[];
  const wanted = names.filter((name) => (inputs[name].type ?? "float32") === "float32" && !frozen.includes(name));
  const make = (): GraphBuilder => gradientGraph(inputs, wanted, build);
  await using session = await EngineSession.create(make, { weightsFolder: tmpdir(), device: "cpu", threads: 1 });
  const run = async (changed: Readonly<Record<string, Plain>>): Promise<Feeds> =>
    session.run(feedsOf(changed), ["y", ...wanted.map((name) => `gradient.${name}`)]);
  // Summed in double precision, so that only the elements are rounded.
  const lossOf = ({ y }: Feeds): number => {
    const data = y.data as Float32Array;
    const weights = numbers(data.length, 99).map(Math.fround);
    return data.reduce((sum, value, i) => sum + value * weights[i], 0);
  };
  const results = await run(inputs);
  let worst = 0;
  for (const name of wanted) {
    const { data, dims } = inputs[name];
    const gradient = results[`gradient.${name}`];
    expect(gradient.dims).toEqual(dims);
    const expected: number[] = [];
    for (let at = 0; at < data.length; at++) {
      let slope = 0;
      for (const [steps, weight] of STENCIL) {
        const moved = Math.fround(data[at]) + steps * STEP;
        const shifted = { ...inputs, [name]: { ...inputs[name], data: data.with(at, moved) } };
        slope += (weight * lossOf(await run(shifted))) / STEP;
      }
      expected.push(slope);
    }
    const size = Math.max(...expected.map(Math.abs), 1e-3);
    const error = Math.max(...expected.map((slope, at) => Math.abs(slope - Number(gradient.data[at])))) / size;
    expect(error, `gradient by ${name}`).toBeLessThan(tolerance);
    worst = Math.max(worst, error);
  }
  return worst;
}
