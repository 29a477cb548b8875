/** @file int4 weights in their second form for long inputs: the same answers, within what its rounding allows. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Tensor } from "onnxruntime-node";
import { afterAll, expect, test } from "vitest";
import { GraphBuilder } from "#precis/graph/builder.js";
import { columnQuantizedLinear } from "#precis/graph/ops/linalg.js";
import { loadModel } from "#precis/index.js";
import { EngineSession } from "#precis/runtime/engine-session.js";
import { writeRandomModel } from "../reference/random-model.js";

const folder = mkdtempSync(join(tmpdir(), "precis-prefill-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Root of the mean square of the difference, against that of `expected`. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  let difference = 0;
  let size = 0;
  expected.forEach((value, i) => {
    difference += (value - (actual[i] as number)) ** 2;
    size += value ** 2;
  });
  return Math.sqrt(difference / size);
}

test("a row much larger than the others does not spoil them", async () => {
  const [rows, inputs, outputs] = [8, 64, 24];
  const graph = new GraphBuilder("columns");
  const columns = Int8Array.from({ length: inputs * outputs }, (_, i) => ((i * 37) % 127) - 63);
  const scales = Float32Array.from({ length: outputs }, (_, i) => 0.01 * (i + 1));
  const weight = {
    columns: graph.weight("columns", "int8", [inputs, outputs], new Uint8Array(columns.buffer)),
    scales: graph.weight("scales", "float32", [outputs], new Uint8Array(scales.buffer)),
  };
  graph.output(columnQuantizedLinear(graph, graph.input("x", "float32", ["rows", inputs]), weight), "y");
  await using session = await EngineSession.create(() => graph, { weightsFolder: folder, device: "cpu" });
  const x = Float32Array.from({ length: rows * inputs }, (_, i) => Math.sin(i * 1.7) * (i < inputs ? 300 : 1));
  const { y } = await session.run({ x: new Tensor("float32", x, [rows, inputs]) }, ["y"]);
  const product = y?.data as Float32Array;
  for (let row = 0; row < rows; row++) {
    const expected = Float32Array.from({ length: outputs }, (_, out) => {
      let sum = 0;
      for (let i = 0; i < inputs; i++) sum += (x[row * inputs + i] as number) * (columns[i * outputs + out] as number);
      return sum * (scales[out] as number);
    });
    expect(relativeError(product.subarray(row * outputs, (row + 1) * outputs), expected)).toBeLessThan(0.02);
  }
});

test("a long input read in the fast form gives nearly the logits of the block form", async () => {
  const directory = join(folder, "model");
  writeRandomModel(directory, { layers: 2, hiddenSize: 64, intermediateSize: 128 });
  const ids = Array.from({ length: 60 }, (_, i) => 6 + ((i * 31) % 250));
  const logits = async (fastPrefill: boolean): Promise<Float32Array> => {
    const cacheDir = join(folder, "cache");
    await using model = await loadModel(directory, { dtype: "int4", device: "cpu", fastPrefill, cacheDir });
    const memory = await model.createMemory();
    return (await memory.forward(ids)).logits;
  };
  const lean = await logits(false);
  const fast = await logits(true);
  expect(fast).not.toEqual(lean);
  expect(relativeError(fast, lean)).toBeLessThan(0.1);
  expect(await logits(true)).toEqual(fast);
});
