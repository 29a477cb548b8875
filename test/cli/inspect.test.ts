/** @file `precis inspect` shows and writes what the library says. */
import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadModel, type LanguageModel, type Memory } from "#precis/index.js";
import { decodeSafetensors } from "#precis/weights/safetensors.js";
import { writeRandomAdapter, writeRandomModel } from "../reference/random-model.js";
import { precis, testFolder } from "./precis.js";

const folder = testFolder();
const STEPS = [
  [70, 71, 72, 73, 74],
  [80, 81, 82],
  [90, 91, 92, 93],
];
const INPUT = [100, 101, 102, 103, 104, 105];
const MESSAGES = [
  { role: "user", content: "Hi there" },
  { role: "assistant", content: "Hello" },
  { role: "user", content: "Bye" },
];
let model: LanguageModel;

beforeAll(async () => {
  const written = writeRandomModel(folder("model"), { layers: 2, hiddenSize: 32, seed: 5 });
  writeRandomAdapter(folder("adapter"), { ...written.options, compTokens: 2 });
  writeFileSync(folder("ids.json"), JSON.stringify({ steps: STEPS, input: INPUT }));
  writeFileSync(folder("stream.json"), JSON.stringify({ stream: INPUT }));
  writeFileSync(folder("chat.json"), JSON.stringify({ messages: MESSAGES }));
  model = await loadModel(folder("model"), { device: "cpu" });
});

afterAll(() => model.dispose());

/** Runs `precis inspect` on a file and returns what `--json` prints. */
async function inspect(steps: string, ...more: string[]): Promise<Record<string, unknown>> {
  const engine = ["--device", "cpu", "--model", folder("model")];
  const { code, stdout, stderr } = await precis(["inspect", ...engine, "--steps", folder(steps), "--json", ...more]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as Record<string, unknown>;
}

/** The tensors of a written file, as shape and numbers. */
function tensors(name: string): Map<string, { shape: readonly number[]; values: Float32Array }> {
  const decoded = decodeSafetensors(new Uint8Array(readFileSync(folder(name))));
  return new Map(
    [...decoded].map(([key, { shape, data }]) => {
      const bytes = data as Uint8Array;
      return [key, { shape, values: new Float32Array(bytes.slice().buffer) }];
    }),
  );
}

/** Expects the file to hold the rows of `memory`. */
async function expectRows(name: string, memory: Memory): Promise<void> {
  const rows = await memory.rows();
  const written = tensors(name);
  expect(written.size).toBe(2 * rows.keys.length);
  for (const [layer, keys] of rows.keys.entries()) {
    const shape = [rows.kvHeads, rows.positions.length, rows.headDim];
    expect(written.get(`keys.${layer}`)).toEqual({ shape, values: keys });
    expect(written.get(`values.${layer}`)).toEqual({ shape, values: rows.values[layer] });
  }
}

describe("every output is what the library gives", () => {
  const settings = ["--method", "ccm-concat", "--adapter"];

  test("statistics of every step, logits, and the memory before the input", async () => {
    const memory = await model.createMemory({ method: "ccm-concat", adapter: folder("adapter") });
    const steps = [];
    for (const ids of STEPS) steps.push(await memory.append(ids));
    const files = ["--logits", folder("l.safetensors"), "--memory", folder("m.safetensors")];
    const found = await inspect("ids.json", ...settings, folder("adapter"), ...files);
    expect(found["steps"]).toEqual(steps.map((stats, index) => ({ step: index + 1, ...stats })));
    expect(found["final"]).toEqual(steps[2]);
    const { logits, vocabSize } = await memory.forward(INPUT);
    expect(tensors("l.safetensors").get("logits")).toEqual({ shape: [INPUT.length, vocabSize], values: logits });
    await expectRows("m.safetensors", memory);
  });

  test("scores, and the memory after the stream", async () => {
    const memory = await model.createMemory({ method: "streaming", options: { window: 8, sink: 1, evict: 2 } });
    for (const ids of STEPS) await memory.append(ids);
    const nll = await memory.score(INPUT);
    const set = ["--method", "streaming", "--set", "window=8", "--set", "sink=1", "--set", "evict=2"];
    const files = ["--nll", folder("nll.json"), "--memory", folder("m.safetensors")];
    const found = await inspect("ids.json", ...set, ...files);
    const perplexity = Math.exp(nll.reduce((sum, value) => sum + value, 0) / nll.length);
    const written = JSON.parse(readFileSync(folder("nll.json"), "utf8")) as unknown;
    expect(written).toEqual({ nll: [...nll], tokens: INPUT.length - 1, perplexity });
    expect(found["nll"]).toEqual({ tokens: INPUT.length - 1, perplexity });
    expect(found["final"]).toEqual(await memory.stats());
    await expectRows("m.safetensors", memory);
    await inspect("ids.json", ...set, "--nll", folder("nll.safetensors"));
    expect(tensors("nll.safetensors").get("nll")).toEqual({ shape: [nll.length], values: nll });
  });

  test("messages: each a step, the user's last one the input", async () => {
    const memory = await model.createMemory({ method: "full" });
    await memory.append(MESSAGES.slice(0, 2));
    const found = await inspect("chat.json", "--method", "full", "--logits", folder("l.safetensors"));
    expect((found["steps"] as unknown[]).length).toBe(2);
    const { logits, ids } = await memory.forward(MESSAGES.slice(2));
    expect(found["input"]).toMatchObject({ tokens: ids.length });
    expect(tensors("l.safetensors").get("logits")?.values).toEqual(logits);
  });

  test("a stream alone, and an empty memory", async () => {
    const found = await inspect("stream.json", "--method", "none", "--memory", folder("m.safetensors"));
    expect(found).toMatchObject({ steps: [], input: { tokens: INPUT.length }, nll: null });
    expect(tensors("m.safetensors").get("keys.0")?.shape).toEqual([2, 0, 8]);
  });
});

test("people get a table with sizes in units", async () => {
  const args = ["--device", "cpu", "--model", folder("model"), "--steps", folder("ids.json"), "--method", "full"];
  const { stdout } = await precis(["inspect", ...args]);
  expect(stdout).toMatch(/STEP +TOKENS +SLOTS +MEMORY +FULL CACHE +RATIO +POSITION\n/);
  expect(stdout).toMatch(/\n +2 +8 +8 +2\.05 kB +2\.05 kB +1\.0× +8\n/);
  expect(stdout).toMatch(/next token .+%/);
});
