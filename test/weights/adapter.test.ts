/** @file Adapters: PEFT folders load with the right scale, foreign or broken ones are refused with the reason. */
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { floatToHalf, halfToFloat } from "#precis/tensor/dtype.js";
import { loadAdapter, saveAdapter, type Adapter } from "#precis/weights/adapter.js";
import { decodeSafetensors, encodeSafetensors, type TensorData } from "#precis/weights/safetensors.js";
import { floats, noise, temporaryFolder, writeFiles } from "./folders.js";

const BASE = { fingerprint: "f".repeat(64), hiddenSize: 4 };
const CONFIG = {
  peft_type: "LORA",
  task_type: "CAUSAL_LM",
  base_model_name_or_path: "someone/model",
  r: 2,
  lora_alpha: 8,
  lora_dropout: 0.1,
  bias: "none",
  target_modules: ["q_proj", "down_proj"],
  modules_to_save: null,
  use_dora: false,
  rank_pattern: {},
};
const PRECIS = { method: "ccm-concat", compTokens: 2, base: BASE.fingerprint };
const Q = "base_model.model.model.layers.0.self_attn.q_proj";
const DOWN = "base_model.model.model.layers.1.mlp.down_proj";
const WEIGHTS: Record<string, TensorData> = {
  [`${Q}.lora_A.weight`]: floats([2, 4], noise(8, 1)),
  [`${Q}.lora_B.weight`]: floats([6, 2], noise(12, 2)),
  [`${DOWN}.lora_A.weight`]: floats([2, 10], noise(20, 3)),
  [`${DOWN}.lora_B.weight`]: floats([4, 2], noise(8, 4)),
};
const COMP = { comp_embeddings: floats([2, 4], noise(8, 5)) };

/** An adapter folder in the making. */
interface Parts {
  config?: Record<string, unknown>;
  weights?: Record<string, TensorData>;
  comp?: Record<string, TensorData>;
}

async function writeAdapter(folder: string, { config = {}, weights = WEIGHTS, comp }: Parts): Promise<void> {
  await writeFiles(folder, {
    "adapter_config.json": { ...CONFIG, ...config },
    "adapter_model.safetensors": encodeSafetensors(weights),
    ...(comp && { "comp_embeddings.safetensors": encodeSafetensors(comp) }),
  });
}

/** Loads a folder with these parts. */
async function load(parts: Parts): Promise<Adapter> {
  await using folder = await temporaryFolder();
  await writeAdapter(folder.path, parts);
  return await loadAdapter(folder.path, BASE);
}

/** The stored lora_B of the q projection, times `scale`. */
function scaledB(scale: number): Float32Array {
  return noise(12, 2).map((value) => value * scale);
}

describe("loading", () => {
  test("reads an ordinary PEFT adapter, scaled by alpha / r, and warns that its model is not recorded", async () => {
    const adapter = await load({});
    expect([...adapter.lora.keys()].sort()).toEqual(["layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"]);
    const pair = adapter.lora.get("layers.0.self_attn.q_proj")!;
    expect(pair).toEqual({ a: noise(8, 1), b: scaledB(4), rank: 2, inFeatures: 4, outFeatures: 6 });
    expect(adapter.config).toMatchObject({ r: 2, alpha: 8, targetModules: ["q_proj", "down_proj"], gated: false });
    expect(adapter.compEmbeddings).toBeUndefined();
    expect(adapter.warnings).toEqual([expect.stringContaining("does not record which model")]);
  });

  test("reads a Precis adapter: gated, with COMP embeddings, made for this model", async () => {
    const adapter = await load({ config: { precis: { ...PRECIS, sinks: 1 } }, comp: COMP });
    expect(adapter.config).toMatchObject({ gated: true, precis: { ...PRECIS, sinks: 1 } });
    expect(adapter.compEmbeddings).toEqual({ data: noise(8, 5), count: 2, hiddenSize: 4 });
    expect(adapter.warnings).toEqual([]);
  });

  test("reads the gain of summaries beside their tokens", async () => {
    const gain = { summary_gain: floats([4], noise(4, 7)) };
    const adapter = await load({ config: { precis: { ...PRECIS, gated: false } }, comp: { ...COMP, ...gain } });
    expect(adapter.compEmbeddings).toEqual({ data: noise(8, 5), count: 2, hiddenSize: 4, summaryGain: noise(4, 7) });
  });

  test("a method without COMP tokens says that its LoRA acts at every token", async () => {
    const adapter = await load({ config: { precis: { method: "compressive", compTokens: 0, gated: false } } });
    expect(adapter.config).toMatchObject({ gated: false, precis: { method: "compressive", gated: false } });
  });

  test.each<[string, Record<string, unknown>, number]>([
    ["alpha / √r with use_rslora", { use_rslora: true }, 8 / Math.SQRT2],
    ["alpha of a pattern that names the module", { alpha_pattern: { k_proj: 1, "layers\\.0\\..*q_proj": 3 } }, 1.5],
    ["alpha of the rank in a pattern", { r: 4, rank_pattern: { q_proj: 2, "mlp.down_proj": 2 } }, 4],
  ])("scales by %s", async (_kind, config, scale) => {
    const pair = (await load({ config })).lora.get("layers.0.self_attn.q_proj")!;
    pair.b.forEach((value, i) => expect(value).toBeCloseTo(scaledB(scale)[i]!, 6));
  });

  test("reads names with an adapter's name or without a language-model head, half floats and target patterns", async () => {
    const halves = Uint16Array.from(noise(8, 1), floatToHalf);
    const weights: Record<string, TensorData> = {
      "base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight": {
        dtype: "float16",
        shape: [2, 4],
        data: halves,
      },
      "base_model.model.layers.0.self_attn.q_proj.lora_B.default.weight": WEIGHTS[`${Q}.lora_B.weight`]!,
    };
    const adapter = await load({ weights, config: { target_modules: "all-linear" } });
    const { a } = adapter.lora.get("layers.0.self_attn.q_proj")!;
    a.forEach((value, i) => expect(value).toBeCloseTo(noise(8, 1)[i]!, 3));
    expect(adapter.config.targetModules).toEqual(["q_proj"]);
  });
});

describe("an adapter is refused", () => {
  const precis = PRECIS;
  test.each<[string, Parts, string, RegExp]>([
    [
      "made for another model",
      { config: { precis: { ...precis, base: "abc" } }, comp: COMP },
      "ADAPTER_MISMATCH",
      /made for the model abc, but this model is f{64}/,
    ],
    [
      "of another hidden size",
      { weights: { ...WEIGHTS, [`${Q}.lora_A.weight`]: floats([2, 3], noise(6)) } },
      "ADAPTER_MISMATCH",
      /"layers\.0\.self_attn\.q_proj" for a hidden size of 3, but this model's is 4/,
    ],
    [
      "with embeddings of another size",
      { config: { precis }, comp: { comp_embeddings: floats([2, 3], noise(6)) } },
      "ADAPTER_MISMATCH",
      /comp_embeddings.* hidden size of 3/,
    ],
    ["of another kind", { config: { peft_type: "IA3" } }, "ADAPTER_INVALID", /peft_type "IA3"/],
    [
      "with saved modules",
      { config: { modules_to_save: ["lm_head"] } },
      "ADAPTER_INVALID",
      /modules_to_save \(\["lm_head"\]\)/,
    ],
    ["with biases", { config: { bias: "all" } }, "ADAPTER_INVALID", /bias "all"/],
    ["with DoRA", { config: { use_dora: true } }, "ADAPTER_INVALID", /use_dora \(true\)/],
    ["with a feature from the future", { config: { warp: 9 } }, "ADAPTER_INVALID", /uses warp \(9\)/],
    ["with PiSSA", { config: { init_lora_weights: "pissa_niter_4" } }, "ADAPTER_INVALID", /pissa_niter_4/],
    ["with rank 0", { config: { r: 0 } }, "ADAPTER_INVALID", /r 0, which must be/],
    ["without alpha", { config: { lora_alpha: undefined } }, "ADAPTER_INVALID", /lora_alpha undefined/],
    ["with a broken pattern", { config: { rank_pattern: { "(": 2 } } }, "ADAPTER_INVALID", /"\(", which is not a reg/],
    ["without targets", { config: { target_modules: null } }, "ADAPTER_INVALID", /target_modules null/],
    [
      "with a gain of another size",
      { config: { precis }, comp: { ...COMP, summary_gain: floats([3], noise(3)) } },
      "ADAPTER_INVALID",
      /summary_gain of 3 values, not 4/,
    ],
    [
      "with a gate that is neither",
      { config: { precis: { ...precis, gated: "no" } }, comp: COMP },
      "ADAPTER_INVALID",
      /precis\.gated "no"/,
    ],
    ["without a method", { config: { precis: { compTokens: 1 } } }, "ADAPTER_INVALID", /precis\.method undefined/],
    [
      "with half a COMP token",
      { config: { precis: { ...precis, compTokens: 0.5 } } },
      "ADAPTER_INVALID",
      /compTokens 0\.5/,
    ],
    [
      "without COMP embeddings",
      { config: { precis } },
      "ADAPTER_INVALID",
      /for 0 COMP tokens, but precis\.compTokens is 2/,
    ],
    ["with COMP embeddings that nobody asked for", { comp: COMP }, "ADAPTER_INVALID", /for 2 COMP .* is 0/],
    [
      "with other COMP tensors",
      { config: { precis }, comp: { x: floats([1], [1]) } },
      "ADAPTER_INVALID",
      /without a matrix named/,
    ],
    [
      "with an unknown tensor",
      { weights: { ...WEIGHTS, "base_model.model.lm_head.lora_A.weight": floats([2, 4], noise(8)) } },
      "ADAPTER_INVALID",
      /tensor "base_model\.model\.lm_head\.lora_A\.weight", which is not supported/,
    ],
    ["with no weights", { weights: {} }, "ADAPTER_INVALID", /has no weights/],
    [
      "with half a pair",
      { weights: { [`${Q}.lora_A.weight`]: WEIGHTS[`${Q}.lora_A.weight`]! } },
      "ADAPTER_INVALID",
      /lacks lora_B of "layers\.0\.self_attn\.q_proj"/,
    ],
    ["of a rank it does not declare", { config: { r: 3 } }, "ADAPTER_INVALID", /rank 2, but its configuration says 3/],
    [
      "whose halves do not fit",
      { weights: { ...WEIGHTS, [`${Q}.lora_B.weight`]: floats([6, 1], noise(6)) } },
      "ADAPTER_INVALID",
      /lora_A \[2, 4\] and lora_B \[6, 1\], which do not fit/,
    ],
    [
      "that lists modules it has not",
      { config: { target_modules: ["q_proj", "k_proj", "down_proj"] } },
      "ADAPTER_INVALID",
      /"k_proj"/,
    ],
    [
      "that has modules it does not list",
      { config: { target_modules: ["q_proj"] } },
      "ADAPTER_INVALID",
      /down_proj", which target/,
    ],
    [
      "with NaN",
      { weights: { ...WEIGHTS, [`${DOWN}.lora_B.weight`]: floats([4, 2], noise(8).with(5, NaN)) } },
      "ADAPTER_INVALID",
      /holds NaN at element 5 of lora_B of "layers\.1\.mlp\.down_proj"/,
    ],
    [
      "with NaN in its embeddings",
      { config: { precis }, comp: { comp_embeddings: floats([2, 4], noise(8).with(0, NaN)) } },
      "ADAPTER_INVALID",
      /holds NaN at element 0 of comp_embeddings/,
    ],
  ])("%s", async (_kind, parts, code, message) => {
    await expect(load(parts)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  test("whose files are missing", async () => {
    await using folder = await temporaryFolder();
    const missing = (name: string): object => ({ code: "FILE_NOT_FOUND", message: expect.stringContaining(name) });
    await expect(loadAdapter(folder.path, BASE)).rejects.toMatchObject(missing("adapter_config.json"));
    await writeFiles(folder.path, { "adapter_config.json": CONFIG });
    await expect(loadAdapter(folder.path, BASE)).rejects.toMatchObject(missing("adapter_model.safetensors"));
  });
});

describe("saving", () => {
  const parts: Parts = { config: { precis: { ...PRECIS, trainingSummary: { steps: 5 } } }, comp: COMP };

  test("gives back the same adapter, under PEFT's names and not scaled", async () => {
    await using folder = await temporaryFolder();
    const adapter = await load(parts);
    await saveAdapter(folder.path, adapter);
    const again = await loadAdapter(folder.path, BASE);
    expect({ ...again, directory: "", config: {} }).toEqual({ ...adapter, directory: "", config: {} });
    expect(again.config.precis).toEqual(adapter.config.precis);
    const stored = decodeSafetensors(await readFile(join(folder.path, "adapter_model.safetensors")));
    expect([...stored.keys()].sort()).toEqual(Object.keys(WEIGHTS).sort());
    const b = stored.get(`${Q}.lora_B.weight`)!.data as Uint8Array;
    expect(new Float32Array(b.slice().buffer)).toEqual(noise(12, 2));
    const config = JSON.parse(await readFile(join(folder.path, "adapter_config.json"), "utf8")) as object;
    expect(config).toMatchObject({ ...CONFIG, ...parts.config });
  });

  test("in half precision takes half the room and rounds each number to the nearest half", async () => {
    await using folder = await temporaryFolder();
    const adapter = await load(parts);
    await saveAdapter(folder.path, adapter, { dtype: "float16" });
    const stored = decodeSafetensors(await readFile(join(folder.path, "adapter_model.safetensors")));
    expect(new Set([...stored.values()].map(({ dtype }) => dtype))).toEqual(new Set(["float16"]));
    const again = await loadAdapter(folder.path, BASE);
    for (const [module, { a }] of adapter.lora) {
      const rounded = [...a].map((value) => halfToFloat(floatToHalf(value)));
      expect([...(again.lora.get(module)?.a ?? [])]).toEqual(rounded);
    }
    expect(again.compEmbeddings?.data).toEqual(adapter.compEmbeddings?.data);
  });

  test("over an adapter with COMP embeddings removes them when the new one has none", async () => {
    await using folder = await temporaryFolder();
    await saveAdapter(folder.path, await load(parts));
    await saveAdapter(folder.path, await load({}));
    expect((await readdir(folder.path)).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    expect((await loadAdapter(folder.path, BASE)).config.gated).toBe(false);
  });

  test("refuses what could not be loaded again, before touching the folder", async () => {
    await using folder = await temporaryFolder();
    const adapter = await load(parts);
    const pair = adapter.lora.get("layers.0.self_attn.q_proj")!;
    const withPair = (name: string, changed: Partial<typeof pair>): Adapter => ({
      ...adapter,
      lora: new Map([...adapter.lora, [name, { ...pair, ...changed }]]),
    });
    const refused: [Adapter, RegExp][] = [
      [{ ...adapter, compEmbeddings: undefined }, /for 0 COMP tokens/],
      [withPair("layers.0.self_attn.q_proj", { a: pair.a.with(1, NaN) }), /holds NaN at element 1 of lora_A/],
      [withPair("layers.0.self_attn.q_proj", { rank: 1 }), /rank 1, but its configuration says 2/],
      [withPair("layers.0.self_attn.q_proj", { inFeatures: 5 }), /8 and 12 values for rank 2, 5 inputs/],
      [withPair("layers.0.q_proj", {}), /"base_model\.model\.model\.layers\.0\.q_proj\.lora_A\.weight", which is not/],
    ];
    for (const [broken, message] of refused) {
      const error = { code: "ADAPTER_INVALID", message: expect.stringMatching(message) };
      await expect(saveAdapter(folder.path, broken)).rejects.toMatchObject(error);
    }
    expect(await readdir(folder.path)).toEqual([]);
  });
});

describe("the fingerprint", () => {
  test("ignores notes and storage, and changes with weights, scale, method and embeddings", async () => {
    const print = async (changed: Parts): Promise<string> => {
      const config = { precis: PRECIS, ...changed.config };
      return (await load({ comp: COMP, ...changed, config })).fingerprint;
    };
    const plain = await print({});
    expect(plain).toMatch(/^[0-9a-f]{64}$/);
    const notes = { base: undefined, trainingSummary: { loss: 1 } };
    expect(await print({ config: { lora_dropout: 0.5, precis: { ...PRECIS, ...notes } } })).toBe(plain);
    const others = await Promise.all([
      print({ weights: { ...WEIGHTS, [`${Q}.lora_B.weight`]: floats([6, 2], noise(12, 2).with(3, 0)) } }),
      print({ config: { lora_alpha: 4 } }),
      print({ config: { alpha_pattern: { q_proj: 4 } } }),
      print({ config: { precis: { ...PRECIS, method: "ccm-merge" } } }),
      print({ comp: { comp_embeddings: floats([2, 4], noise(8, 6)) } }),
    ]);
    expect(new Set([plain, ...others]).size).toBe(6);
  });
});
