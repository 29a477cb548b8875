/** @file A LoRA added to a model's weights gives what model and LoRA give together. */

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, expect, test } from "vitest";

import { loadModel } from "#precis/index.js";
import { mergeAdapter } from "#precis/train/merge-adapter.js";
import { openCheckpoint } from "#precis/weights/checkpoint.js";
import {
  encodeSafetensors,
  readSafetensorsHeader,
  readTensor,
  readTensorBytes,
  type TensorEntry,
} from "#precis/weights/safetensors.js";
import { expectError } from "../conformance/expect-error.js";
import { textIds } from "../conformance/fixtures.js";
import { difference } from "../golden/compare.js";
import {
  writeRandomAdapter,
  writeRandomModel,
  type RandomModel,
  type RandomModelOptions,
} from "../reference/random-model.js";

const scratch = mkdtempSync(join(tmpdir(), "precis-merge-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const SIZES: RandomModelOptions = { hiddenSize: 32, layers: 2, queryHeads: 4, kvHeads: 2, seed: 21 };
const IDS = textIds(17);

interface Pair {
  model: RandomModel;
  /** Folder of an ordinary LoRA, as PEFT writes it. */
  lora: string;
  output: string;
}

function writePair(name: string, options: RandomModelOptions = {}): Pair {
  const model = writeRandomModel(join(scratch, name, "model"), { ...SIZES, ...options });
  const { directory: lora } = writeRandomAdapter(join(scratch, name, "lora"), { ...model.options, seed: 5 });
  const file = join(lora, "adapter_config.json");
  const { precis: _, ...config } = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  writeFileSync(file, JSON.stringify(config));
  rmSync(join(lora, "comp_embeddings.safetensors"));
  return { model, lora, output: join(scratch, name, "merged") };
}

const merge = ({ model, lora, output }: Pair) => mergeAdapter({ model: model.directory, adapter: lora, output });

async function logitsOf(directory: string, adapter?: string): Promise<Float32Array> {
  await using model = await loadModel(directory, { device: "cpu", threads: 1 });
  return (await (await model.createMemory({ method: "full", adapter })).forward(IDS)).logits;
}

test.each([
  ["matrices of their own", {}, 1e-4],
  ["stacked matrices", { architecture: "phi3" }, 1e-4],
  ["tied head", { tiedHead: true }, 1e-4],
  // Each weight is rounded once more, to 11 bits or 8.
  ["half floats", { dtype: "float16" }, 0.04],
  ["brain floats", { dtype: "bfloat16" }, 0.3],
] satisfies [string, RandomModelOptions, number][])(
  "logits are those of model and LoRA: %s",
  async (name, options, most) => {
    const pair = writePair(name, options);
    const { directory, matrices } = await merge(pair);
    expect(matrices).toBe(8);
    const together = await logitsOf(pair.model.directory, pair.lora);
    expect(difference(await logitsOf(directory), together)).toBeLessThan(most);
    expect(difference(await logitsOf(pair.model.directory), together)).toBeGreaterThan(5 * most);
  },
);

test("types, shapes, tokenizer and unchanged weights stay, and the result has an identity of its own", async () => {
  const pair = writePair("kept", { dtype: "float16" });
  mkdirSync(join(pair.model.directory, "adapters"));
  writeFileSync(join(pair.model.directory, "README.md"), "about the old model");
  writeFileSync(join(pair.model.directory, "LICENSE"), "terms");
  const { directory, fingerprint, base } = await merge(pair);
  expect(fingerprint).not.toBe(base);
  const files = readdirSync(directory).sort();
  expect(files).toEqual(["LICENSE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
  const [before, after] = [await openCheckpoint(pair.model.directory), await openCheckpoint(directory)];
  expect(after.config).toEqual({ ...before.config, precis_merged: [{ base, adapter: expect.any(String) }] });
  for (const [name, entry] of before.tensors) {
    const other = after.tensors.get(name);
    expect(other).toMatchObject({ dtype: entry.dtype, shape: entry.shape });
    const same = Buffer.compare(await readTensorBytes(entry), await readTensorBytes(other as TensorEntry)) === 0;
    expect(same, name).toBe(!/[qkvo]_proj/.test(name));
  }
});

test("shards stay shards", async () => {
  const pair = writePair("shards");
  const whole = join(pair.model.directory, "model.safetensors");
  const { tensors } = await readSafetensorsHeader(whole);
  const map: Record<string, string> = {};
  for (const part of [0, 1]) {
    const own = [...tensors.values()].filter((_, index) => index % 2 === part);
    const data = own.map(async (entry) => [entry.name, { ...entry, data: await readTensor(entry) }] as const);
    writeFileSync(
      join(pair.model.directory, `part-${part}.safetensors`),
      encodeSafetensors(new Map(await Promise.all(data))),
    );
    for (const { name } of own) map[name] = `part-${part}.safetensors`;
  }
  rmSync(whole);
  writeFileSync(join(pair.model.directory, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
  const { directory } = await merge(pair);
  expect(readdirSync(directory)).toContain("part-1.safetensors");
  const together = await logitsOf(pair.model.directory, pair.lora);
  expect(difference(await logitsOf(directory), together)).toBeLessThan(1e-4);
});

test("merging twice is remembered", async () => {
  const pair = writePair("twice");
  const first = await merge(pair);
  const second = await mergeAdapter({ model: first.directory, adapter: pair.lora, output: `${pair.output}-again` });
  expect(second.base).toBe(first.fingerprint);
  const { config } = await openCheckpoint(second.directory);
  expect(config["precis_merged"]).toMatchObject([{ base: first.base }, { base: first.fingerprint }]);
});

test("a compression adapter is refused, and so are a full folder and another model's LoRA", async () => {
  const pair = writePair("refused");
  const gated = writeRandomAdapter(join(scratch, "gated"), pair.model.options);
  await expectError(merge({ ...pair, lora: gated.directory }), "OPTION_INVALID", /ccm-concat/, /--method lora/);
  expect(existsSync(pair.output)).toBe(false);
  const recurrent = writeRandomAdapter(join(scratch, "recurrent"), { ...pair.model.options, recurrent: true });
  await expectError(merge({ ...pair, lora: recurrent.directory }), "OPTION_INVALID", /rmt/);
  await expectError(merge({ ...pair, output: pair.model.directory }), "OPTION_INVALID", /not empty/);
  const deeper = writePair("deeper", { layers: 3 });
  await expectError(merge({ ...pair, lora: deeper.lora }), "ADAPTER_MISMATCH", /layers\.2/);
  const wider = writePair("wider", { kvHeads: 4 });
  await expectError(merge({ ...pair, lora: wider.lora }), "ADAPTER_MISMATCH", /k_proj/);
  expect(existsSync(pair.output)).toBe(false);
});

test("a sum that half floats cannot hold is refused, and leaves no model behind", async () => {
  const pair = writePair("overflow", { dtype: "float16" });
  const file = join(pair.lora, "adapter_config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  writeFileSync(file, JSON.stringify({ ...config, lora_alpha: 1e7 }));
  await expectError(merge(pair), "WEIGHTS_INVALID", /float16/, /learning rate/);
  expect(readdirSync(pair.output)).toEqual([]);
});
