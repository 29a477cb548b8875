/** @file Models as they are stored and as they run: families, element types, tied heads, quantised copies. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { afterAll, describe, expect, test } from "vitest";

import { loadModel, type LoadOptions, type WeightDType } from "#precis/index.js";
import { textIds } from "../conformance/fixtures.js";
import { difference, largest } from "../golden/compare.js";
import { decode } from "../reference/decoder.js";
import { writeRandomModel, type RandomModel, type RandomModelOptions } from "../reference/random-model.js";

const IDS = textIds(33);
const ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "phi3"] as const;
const scratch = mkdtempSync(join(tmpdir(), "precis-weights-"));
afterAll(() => rmSync(scratch, { recursive: true }));

let written = 0;
const write = (options: RandomModelOptions): RandomModel =>
  writeRandomModel(join(scratch, String(written++)), { layers: 2, seed: 41, ...options });

async function logitsOf(directory: string, options: LoadOptions = {}): Promise<Float32Array> {
  await using model = await loadModel(directory, {
    device: "cpu",
    threads: 1,
    cacheDir: join(scratch, "cache"),
    ...options,
  });
  expect(model.info.dtype).toBe(options.dtype ?? "fp32");
  return (await (await model.createMemory()).forward(IDS)).logits;
}

/** Root mean square of the difference, as a share of the logits' own. */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const norm = (values: readonly number[]): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const wanted = Array.from(expected);
  return norm(wanted.map((value, i) => actual[i] - value)) / norm(wanted);
}

describe.each(ARCHITECTURES)("%s", (architecture) => {
  test.each([false, true])("equals the float64 reference, tied head: %s", async (tiedHead) => {
    const model = write({ architecture, tiedHead });
    const { logits } = decode(model, { inputIds: IDS });
    expect(difference(await logitsOf(model.directory), logits)).toBeLessThan(1e-4 * largest(logits));
  });

  test.each([
    ["int8", 0.06],
    ["int4", 0.5],
    ["fp16", 0.002],
  ] as const)("runs as %s with a small error", async (dtype: WeightDType, allowed) => {
    const model = write({ architecture, tiedHead: true });
    const exact = await logitsOf(model.directory);
    const error = relativeError(await logitsOf(model.directory, { dtype }), exact);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(allowed);
  });
});

describe("checkpoints", () => {
  test.each(["float16", "bfloat16"] as const)("of %s run as they are stored", async (dtype) => {
    for (const tiedHead of [false, true]) {
      const model = write({ dtype, tiedHead });
      const { logits } = decode(model, { inputIds: IDS });
      expect(difference(await logitsOf(model.directory), logits)).toBeLessThan(1e-4 * largest(logits));
    }
  });

  test.each(["int8", "int4", "fp16"] as const)("of bfloat16 can be quantised to %s", async (dtype) => {
    const model = write({ dtype: "bfloat16" });
    const { logits } = decode(model, { inputIds: IDS });
    const allowed = { int8: 0.06, int4: 0.5, fp16: 0.002 }[dtype];
    expect(relativeError(await logitsOf(model.directory, { dtype }), logits)).toBeLessThan(allowed);
  });

  test.each(["int8", "int4"] as const)("of %s give the same logits from the cached copy", async (dtype) => {
    const model = write({ seed: 42 });
    const progress: string[] = [];
    const first = await logitsOf(model.directory, { dtype, onProgress: ({ phase }) => progress.push(phase) });
    expect(progress).toContain("quantize");
    expect(await logitsOf(model.directory, { dtype })).toEqual(first);
  });

  test("grouped heads of any number and size", async () => {
    for (const heads of [
      { queryHeads: 4, kvHeads: 4 },
      { queryHeads: 6, kvHeads: 2, hiddenSize: 48, headDim: 16 },
      { queryHeads: 4, kvHeads: 1, headDim: 24 },
    ]) {
      const model = write({ ...heads, architecture: "qwen3" });
      const { logits } = decode(model, { inputIds: IDS });
      expect(difference(await logitsOf(model.directory), logits)).toBeLessThan(1e-4 * largest(logits));
    }
  });

  test("a sliding window of a family limits what its tokens see", async () => {
    for (const architecture of ["mistral", "phi3"] as const) {
      const model = write({ architecture });
      model.config["sliding_window"] = 7;
      writeFileSync(join(model.directory, "config.json"), JSON.stringify(model.config));
      const { logits } = decode(model, { inputIds: IDS });
      const unlimited = decode({ ...model, config: { ...model.config, sliding_window: null } }, { inputIds: IDS });
      expect(difference(logits, unlimited.logits)).toBeGreaterThan(0.1);
      expect(difference(await logitsOf(model.directory), logits)).toBeLessThan(1e-4 * largest(logits));
    }
  });

  test("llama3 scaling in either way of writing it", async () => {
    const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
    const model = write({ ropeScaling: { rope_type: "llama3", ...scaling }, ropeTheta: 500_000 });
    const { logits } = decode(model, { inputIds: IDS });
    expect(difference(await logitsOf(model.directory), logits)).toBeLessThan(1e-4 * largest(logits));
    const { rope_theta, rope_scaling, ...rest } = model.config;
    const newer = { ...rest, rope_parameters: { rope_theta, ...(rope_scaling as Record<string, unknown>) } };
    writeFileSync(join(model.directory, "config.json"), JSON.stringify(newer));
    expect(difference(await logitsOf(model.directory), logits)).toBeLessThan(1e-4 * largest(logits));
  });
});

describe("a memory on quantised weights", () => {
  test("decodes as one pass does, and alone as in a batch", async () => {
    const { directory } = write({});
    await using model = await loadModel(directory, { device: "cpu", dtype: "int8", cacheDir: join(scratch, "cache") });
    const whole = (await (await model.createMemory()).forward(IDS)).logits;
    const memory = await model.createMemory();
    for (const [index, id] of IDS.entries()) {
      const { logits } = await memory.forward([id]);
      expect(difference(logits, whole.subarray(index * 320, (index + 1) * 320))).toBeLessThan(0.02 * largest(whole));
      await memory.append([id]);
    }
    const answer = async (count: number): Promise<number[]> =>
      (await (await model.createMemory()).answer(textIds(count), { maxTokens: 15, ignoreEos: true })).tokenIds;
    const alone = [await answer(3), await answer(11)];
    expect(await Promise.all([answer(3), answer(11)])).toEqual(alone);
  });
});

describe("the embedded model", () => {
  const directory = fileURLToPath(new URL("../../models/precis-28m", import.meta.url));
  const text =
    "The history of the city begins with a small settlement on the river. Over the centuries it grew into a trading town.";

  test("predicts text almost as well quantised", async () => {
    const loss = async (dtype: WeightDType): Promise<number> => {
      await using model = await loadModel(directory, { device: "cpu", dtype, cacheDir: join(scratch, "cache") });
      const nll = await (await model.createMemory()).score(text);
      return nll.reduce((sum, value) => sum + value, 0) / nll.length;
    };
    const exact = await loss("fp32");
    expect(exact).toBeLessThan(4.5);
    expect(Math.abs((await loss("int8")) - exact)).toBeLessThan(0.02);
    expect(Math.abs((await loss("int4")) - exact)).toBeLessThan(0.25);
  });
});
