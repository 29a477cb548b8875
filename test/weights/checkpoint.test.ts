/** @file Model folders: every layout opens, every missing or broken piece is named, identity means the same model. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { findNonFiniteTensor, fingerprintCheckpoint, openCheckpoint } from "#precis/weights/checkpoint.js";
import { encodeSafetensors, readTensor, type TensorData } from "#precis/weights/safetensors.js";
import { floats, noise, temporaryFolder, writeFiles, writeModel } from "./folders.js";

const CONFIG = { model_type: "llama", hidden_size: 4 };
const FIRST = { "a.weight": floats([2, 2], [1, 2, 3, 4]) };
const SECOND = { "b.weight": floats([2], [5, 6]) };
const INDEX = { metadata: {}, weight_map: { "a.weight": "s-1.safetensors", "b.weight": "s-2.safetensors" } };
const SHARDED = {
  "config.json": CONFIG,
  "model.safetensors.index.json": INDEX,
  "s-1.safetensors": encodeSafetensors(FIRST),
  "s-2.safetensors": encodeSafetensors(SECOND),
};

describe("opening a model folder", () => {
  test("reads sharded weights and both configs", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, { ...SHARDED, "generation_config.json": { eos_token_id: [2, 3] } });
    const checkpoint = await openCheckpoint(folder.path);
    expect(checkpoint.config).toEqual(CONFIG);
    expect(checkpoint.generationConfig).toEqual({ eos_token_id: [2, 3] });
    expect(checkpoint.files).toEqual(["s-1", "s-2"].map((name) => join(folder.path, `${name}.safetensors`)));
    expect([...(await readTensor(checkpoint.tensors.get("b.weight")!))]).toEqual([5, 6]);
  });

  test.each(["model.safetensors", "weights-of-mine.safetensors"])("reads one file named %s", async (name) => {
    await using folder = await temporaryFolder();
    const adapter = { "adapter_model.safetensors": encodeSafetensors(SECOND) };
    await writeFiles(folder.path, { "config.json": CONFIG, [name]: encodeSafetensors(FIRST), ...adapter });
    const checkpoint = await openCheckpoint(folder.path);
    expect([...checkpoint.tensors.keys()]).toEqual(["a.weight"]);
    expect(checkpoint.generationConfig).toEqual({});
  });

  test.each<[string, Parameters<typeof writeFiles>[1], string, RegExp]>([
    ["no config", { "model.safetensors": encodeSafetensors(FIRST) }, "FILE_NOT_FOUND", /config\.json.*precis pull/],
    ["no weights", { "config.json": CONFIG }, "FILE_NOT_FOUND", /no \.safetensors weights\. .*precis pull/],
    [
      "weights in another format",
      { "config.json": CONFIG, "pytorch_model.bin": "x" },
      "FILE_NOT_FOUND",
      /pytorch_model\.bin, a format/,
    ],
    [
      "several files and no index",
      { "config.json": CONFIG, "a.safetensors": "x", "b.safetensors": "x" },
      "FILE_NOT_FOUND",
      /2 \.safetensors files \(a\.safetensors, b\.safetensors/,
    ],
    ["malformed JSON", { ...SHARDED, "config.json": "{" }, "FILE_INVALID", /config\.json is not valid JSON/],
    [
      "a config that is no object",
      { ...SHARDED, "config.json": "[]" },
      "FILE_INVALID",
      /must hold a JSON object.*an array/,
    ],
    ["an index without a map", { ...SHARDED, "model.safetensors.index.json": {} }, "FILE_INVALID", /no "weight_map"/],
    [
      "an index that leaves the folder",
      { ...SHARDED, "model.safetensors.index.json": { weight_map: { a: "../x.safetensors" } } },
      "FILE_INVALID",
      /"\.\.\/x\.safetensors", not a file name/,
    ],
    [
      "a tensor that its shard does not hold",
      { ...SHARDED, "s-2.safetensors": encodeSafetensors(FIRST) },
      "WEIGHTS_INVALID",
      /"b\.weight" in s-2\.safetensors, which does not hold it/,
    ],
  ])("refuses %s", async (_kind, files, code, message) => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, files);
    await expect(openCheckpoint(folder.path)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  test("refuses missing shards, naming them", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, SHARDED);
    await rm(join(folder.path, "s-2.safetensors"));
    const error = { code: "FILE_NOT_FOUND", message: expect.stringMatching(/lacks 1 of 2 .*s-2\.safetensors/) };
    await expect(openCheckpoint(folder.path)).rejects.toMatchObject(error);
  });

  test("refuses a folder that is missing or a file", async () => {
    await expect(openCheckpoint("no-such-model")).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(openCheckpoint("package.json")).rejects.toThrow(/is not a folder/);
  });
});

describe("the fingerprint", () => {
  /** The fingerprint of a model with this content. */
  async function fingerprint(tensors: Record<string, TensorData>, config: Record<string, unknown>): Promise<string> {
    await using folder = await temporaryFolder();
    await writeModel(folder.path, tensors, config);
    return await fingerprintCheckpoint(await openCheckpoint(folder.path));
  }

  test("is the same for another sharding, key order and volatile fields", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, SHARDED);
    const sharded = await fingerprintCheckpoint(await openCheckpoint(folder.path));
    const config = { torch_dtype: "float32", hidden_size: 4, model_type: "llama", transformers_version: "9" };
    expect(sharded).toMatch(/^[0-9a-f]{64}$/);
    expect(await fingerprint({ ...SECOND, ...FIRST }, config)).toBe(sharded);
  });

  test("changes with the config, a name, a type, and content at the start, middle and end of a big tensor", async () => {
    const big = noise(20_000);
    const changed = (index: number): TensorData => floats([20_000], big.with(index, 9));
    const prints = await Promise.all([
      fingerprint({ big: floats([20_000], big) }, CONFIG),
      fingerprint({ big: floats([20_000], big) }, { ...CONFIG, hidden_size: 8 }),
      fingerprint({ big: floats([200, 100], big) }, CONFIG),
      fingerprint({ other: floats([20_000], big) }, CONFIG),
      fingerprint({ big: { dtype: "int32", shape: [20_000], data: big } }, CONFIG),
      ...[0, 10_000, 19_999].map((index) => fingerprint({ big: changed(index) }, CONFIG)),
    ]);
    expect(new Set(prints).size).toBe(prints.length);
  });
});

describe("the search for values that are not finite", () => {
  test.each<[string, TensorData, number]>([
    ["NaN in float32", floats([3], [1, 2, NaN]), 2],
    ["-infinity in float16", { dtype: "float16", shape: [2], data: Uint16Array.of(0x7bff, 0xfc00) }, 1],
    ["NaN in bfloat16", { dtype: "bfloat16", shape: [2], data: Uint16Array.of(0x7f7f, 0x7fc0) }, 1],
    ["NaN after the first 8 MiB", floats([2_200_000], new Float32Array(2_200_000).with(2_150_000, NaN)), 2_150_000],
  ])("finds %s", async (_kind, tensor, index) => {
    await using folder = await temporaryFolder();
    await writeModel(folder.path, { fine: floats([1], [1]), ill: tensor });
    expect(await findNonFiniteTensor(await openCheckpoint(folder.path))).toEqual({ name: "ill", index });
  });

  test("finds none in sound weights, and stops when told to", async () => {
    await using folder = await temporaryFolder();
    await writeModel(folder.path, {
      a: floats([2], [3.4e38, -0]),
      ids: { dtype: "int32", shape: [1], data: Int32Array.of(-1) },
    });
    const checkpoint = await openCheckpoint(folder.path);
    expect(await findNonFiniteTensor(checkpoint)).toBeUndefined();
    await expect(findNonFiniteTensor(checkpoint, AbortSignal.abort())).rejects.toMatchObject({ code: "ABORTED" });
  });
});
