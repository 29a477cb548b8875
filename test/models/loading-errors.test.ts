/** @file What can be wrong with a checkpoint, and how loading says so. */

import { cpSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { loadModel, PrecisError } from "#precis/index.js";
import { expectError } from "../conformance/expect-error.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { writeRandomModel, type RandomModel } from "../reference/random-model.js";
import { writeSafetensors } from "../reference/random-tensors.js";

const scratch = mkdtempSync(join(tmpdir(), "precis-loading-"));
let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 61 });
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true });
});

let copies = 0;
/** A copy of the model's folder, to be broken. */
function copyOfModel(): string {
  const directory = join(scratch, `copy${copies++}`);
  cpSync(fixture.files.directory, directory, { recursive: true });
  return directory;
}

function editConfig(directory: string, change: Record<string, unknown>): string {
  const file = join(directory, "config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  writeFileSync(file, JSON.stringify({ ...config, ...change }));
  return directory;
}

async function load(directory: string): Promise<void> {
  await using model = await loadModel(directory, { device: "cpu", offline: true });
  const memory = await model.createMemory();
  await memory.forward(textIds(3));
}

describe("loading a model", () => {
  test("that is not there", async () => {
    await expectError(load(join(scratch, "nowhere")), "FILE_NOT_FOUND", /nowhere/, /hub id/);
  });

  test.each(["config.json", "model.safetensors"])("without its %s", async (file) => {
    const directory = copyOfModel();
    rmSync(join(directory, file));
    await expectError(load(directory), "FILE_NOT_FOUND", /config\.json|\.safetensors/, /precis pull/);
  });

  test("with a weight file that is cut off", async () => {
    const directory = copyOfModel();
    const file = join(directory, "model.safetensors");
    truncateSync(file, statSync(file).size - 1000);
    await expectError(load(directory), "WEIGHTS_INVALID", /model\.safetensors/, /[Dd]ownload/);
    truncateSync(file, 5);
    await expectError(load(directory), "WEIGHTS_INVALID", /model\.safetensors/);
  });

  test("with a config that is not JSON", async () => {
    const directory = copyOfModel();
    writeFileSync(join(directory, "config.json"), "{");
    await expectError(load(directory), "FILE_INVALID", /config\.json/);
  });

  test("of an unknown architecture", async () => {
    const directory = editConfig(copyOfModel(), { model_type: "mamba" });
    await expectError(load(directory), "MODEL_UNSUPPORTED", /"mamba"/, /llama, mistral, qwen2/);
  });

  test.each([
    [{ hidden_size: "64" }, /"hidden_size" must be a positive number/],
    [{ num_hidden_layers: 0 }, /"num_hidden_layers"/],
    [{ rope_scaling: { rope_type: "spiral" } }, /"spiral" is not supported/],
    [{ hidden_act: "relu6" }, /"relu6" is not supported/],
  ])("with %o in its config", async (change, message) => {
    const error: unknown = await load(editConfig(copyOfModel(), change)).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(PrecisError);
    expect((error as PrecisError).code).toMatch(/^(CONFIG_INVALID|MODEL_UNSUPPORTED)$/);
    expect((error as PrecisError).message).toMatch(message);
  });

  test("whose config asks for more layers, or other sizes, than there are weights", async () => {
    const more = editConfig(copyOfModel(), { num_hidden_layers: 9 });
    await expectError(load(more), "WEIGHTS_INVALID", /no tensor "model\.layers\.2\./, /config\.json/);
    const wider = editConfig(copyOfModel(), { intermediate_size: 96 });
    await expectError(load(wider), "WEIGHTS_INVALID", /mlp\.gate_proj.*\[64, 32\].*config\.json asks for \[96, 32\]/);
    const heads = editConfig(copyOfModel(), { num_attention_heads: 8 });
    await expectError(load(heads), "WEIGHTS_INVALID", /q_proj/);
  });

  test("on a device that is not there", async () => {
    const elsewhere = loadModel(fixture.files.directory, { device: "tpu" as "cpu" });
    await expectError(elsewhere, "DEVICE_UNAVAILABLE", /"tpu"/, /Use one of: .*cpu/);
  });
});

describe("weights that are not numbers", () => {
  function withNaN(tensor: string, at: number): string {
    const directory = join(scratch, `nan${copies++}`);
    const model: RandomModel = writeRandomModel(directory, { ...fixture.files.options });
    const header = readFileSync(join(directory, "model.safetensors"));
    const length = Number(header.readBigUInt64LE(0));
    const shapes = JSON.parse(header.toString("utf8", 8, 8 + length)) as Record<string, { shape: number[] }>;
    const tensors = new Map([...model.weights].map(([name, data]) => [name, { shape: shapes[name].shape, data }]));
    (tensors.get(tensor) as { data: Float32Array }).data[at] = Number.NaN;
    writeSafetensors(join(directory, "model.safetensors"), tensors);
    return directory;
  }

  test.each([
    ["model.layers.1.mlp.up_proj.weight", 77],
    ["model.layers.0.self_attn.q_proj.weight", 5],
    ["model.norm.weight", 0],
    ["lm_head.weight", 300 * 32 + 3],
    ["model.embed_tokens.weight", 42 * 32],
  ])("are found by name: %s", async (tensor, at) => {
    await using model = await loadModel(withNaN(tensor, at), { device: "cpu" });
    const memory = await model.createMemory();
    const named = [new RegExp(`"${tensor.replaceAll(".", "\\.")}" is not a finite number`), /Download the checkpoint/];
    await expectError(memory.forward([41, 42, 43]), "WEIGHTS_INVALID", ...named);
    await expectError(memory.answer([41, 42, 43]), "WEIGHTS_INVALID", ...named);
  });

  test("are kept out of memories that only take text in", async () => {
    await using model = await loadModel(withNaN("model.embed_tokens.weight", 42 * 32), { device: "cpu" });
    const memory = await model.createMemory();
    await memory.append([41, 43]);
    await expectError(memory.append([41, 42, 43]), "WEIGHTS_INVALID", /embed_tokens/);
    expect(await memory.stats()).toMatchObject({ tokensSeen: 2, slots: 2, steps: 1 });
    expect((await memory.forward([50])).logits).not.toContain(NaN);
  });
});
