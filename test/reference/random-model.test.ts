/** @file The test checkpoints themselves: they must be what they claim, or every test that uses them is worth nothing. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Tokenizer } from "@huggingface/tokenizers";
import { Template } from "@huggingface/jinja";
import { afterAll, describe, expect, test } from "vitest";

import { goldenDirectory, goldenFloats, readGolden } from "../golden/golden.js";
import { CHAT_TEMPLATE, FIRST_BYTE_ID } from "./byte-tokenizer.js";
import { adapterKey, convertGoldenAdapter, writeRandomAdapter, writeRandomModel } from "./random-model.js";
import { store } from "./random-tensors.js";

const directory = mkdtempSync(join(tmpdir(), "precis-random-model-"));
afterAll(() => rmSync(directory, { recursive: true }));

const json = (...path: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(join(directory, ...path), "utf8")) as Record<string, unknown>;

describe("writeRandomModel", () => {
  test("returns what the file holds, the same for the same seed", () => {
    const model = writeRandomModel(join(directory, "llama"), { layers: 1, seed: 3 });
    const file = readGolden(join(directory, "llama", "model.safetensors"));
    expect([...file.keys()]).toEqual([...model.weights.keys()]);
    for (const [name, data] of model.weights) expect(file.get(name)?.data).toEqual(data);
    expect(file.get("model.layers.0.self_attn.k_proj.weight")?.shape).toEqual([32, 64]);
    expect(json("llama", "config.json")).toEqual(model.config);
    const again = writeRandomModel(join(directory, "again"), { layers: 1, seed: 3 });
    const other = writeRandomModel(join(directory, "other"), { layers: 1, seed: 4 });
    expect(again.weights).toEqual(model.weights);
    expect(other.weights.get("lm_head.weight")).not.toEqual(model.weights.get("lm_head.weight"));
  });

  test.each([
    ["float16", 2 ** -11],
    ["bfloat16", 2 ** -8],
  ] as const)("%s rounds to nearest", (dtype, relative) => {
    const exact = [0, 1, -1, 0.5, 1.5, -2.25, 1024];
    expect([...store(Float32Array.from(exact), dtype).seen]).toEqual(exact);
    const data = Float32Array.from({ length: 999 }, (_, i) => Math.sin(i) * 2 ** ((i % 17) - 12));
    const { seen } = store(data, dtype);
    for (let i = 0; i < data.length; i++) {
      expect(Math.abs(seen[i] - data[i])).toBeLessThanOrEqual(Math.max(Math.abs(data[i]) * relative, 2 ** -25));
    }
  });

  test("has the tensors of each family", () => {
    const names = (architecture: "qwen2" | "qwen3" | "phi3"): string[] => [
      ...writeRandomModel(join(directory, architecture), { architecture, layers: 1, tiedHead: true }).weights.keys(),
    ];
    expect(names("qwen2")).toContain("model.layers.0.self_attn.v_proj.bias");
    expect(names("qwen3")).toContain("model.layers.0.self_attn.k_norm.weight");
    expect(names("phi3")).toContain("model.layers.0.mlp.gate_up_proj.weight");
    expect(names("qwen2")).not.toContain("lm_head.weight");
  });

  test("text survives its tokenizer, and its template makes specials", () => {
    writeRandomModel(join(directory, "text"));
    const tokenizer = new Tokenizer(json("text", "tokenizer.json"), json("text", "tokenizer_config.json"));
    const text = "Précis, 記憶 🧠\n\ttab  two spaces";
    const bytes = [...new TextEncoder().encode(text)];
    const { ids } = tokenizer.encode(text, { add_special_tokens: false });
    expect(ids).toEqual(bytes.map((byte) => FIRST_BYTE_ID + byte));
    expect(tokenizer.decode(ids)).toBe(text);
    const chat = new Template(CHAT_TEMPLATE).render({
      messages: [{ role: "user", content: "hi" }],
      bos_token: "<|bos|>",
      add_generation_prompt: true,
    });
    expect(tokenizer.encode(chat, { add_special_tokens: false }).ids).toEqual([1, 3, 110, 111, 2, 4]);
    expect(tokenizer.decode([300])).toBe("[300]");
  });
});

describe("adapters", () => {
  test("writeRandomAdapter fits its model", () => {
    const model = writeRandomModel(join(directory, "base"), { headDim: 24 });
    const adapter = writeRandomAdapter(join(directory, "adapter"), { ...model.options, r: 4, alpha: 4, compTokens: 3 });
    const file = readGolden(join(directory, "adapter", "adapter_model.safetensors"));
    expect(file.get(adapterKey(0, "q_proj", "B"))?.shape).toEqual([96, 4]);
    expect(file.get(adapterKey(2, "o_proj", "A"))?.shape).toEqual([4, 96]);
    expect(file.size).toBe(3 * 4 * 2);
    const comp = readGolden(join(directory, "adapter", "comp_embeddings.safetensors")).get("comp_embeddings");
    expect(comp).toEqual({ dtype: "F32", shape: [3, 64], data: adapter.compEmbeddings });
    expect(json("adapter", "adapter_config.json")).toMatchObject({
      peft_type: "LORA",
      r: 4,
      lora_alpha: 4,
      precis: { method: "ccm-concat", compTokens: 3 },
    });
  });

  test.skipIf(goldenDirectory("ccm") === undefined)("convertGoldenAdapter keeps every matrix", () => {
    const adapter = convertGoldenAdapter(join(directory, "golden"), "merge");
    expect(adapter.weights.size).toBe(24);
    const golden = readGolden(join(goldenDirectory("ccm") as string, "adapter.safetensors"));
    expect(adapter.weights.get(adapterKey(1, "v_proj", "B"))).toEqual(goldenFloats(golden, "layers.1.v_proj.lora_B"));
    expect(adapter.compEmbeddings).toEqual(goldenFloats(golden, "comp_embeddings").slice(0, 128));
  });
});
