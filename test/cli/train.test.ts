/** @file `precis train` from data to adapter, as users run it. */

import { existsSync, readFileSync } from "node:fs";

import { beforeAll, expect, test } from "vitest";

import { loadModel } from "#precis/index.js";
import { loadAdapter } from "#precis/weights/adapter.js";
import { readJsonObject } from "#precis/weights/files.js";
import type { MetricsLine } from "#precis/train/run-directory.js";
import { writeTinyData } from "../data/tiny-data.js";
import { writeRandomModel } from "../reference/random-model.js";
import { precis, start, testFolder, type Finished } from "./precis.js";

const path = testFolder();
beforeAll(async () => {
  await writeTinyData(path("data"));
  writeRandomModel(path("model"), { hiddenSize: 32, layers: 2, queryHeads: 4, kvHeads: 2, seed: 9, tiedHead: true });
});

/** The command line of a small run into the folder `output`. */
function command(output: string, ...more: string[]): string[] {
  const common = ["train", "--model", path("model"), "--data", path("data"), "--output", path(output)];
  const sizes = ["--rows", "2", "--row-length", "320", "--max-steps", "4", "--steps", "6", "--rank", "4"];
  const often = ["--eval-every", "3", "--save-every", "1", "--eval-episodes", "4", "--device", "cpu", "--threads", "1"];
  return [...common, ...sizes, ...often, "--learning-rate", "0.02", ...more];
}

function metricsOf(output: string): MetricsLine[] {
  const lines = readFileSync(path(output, "metrics.jsonl"), "utf8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as MetricsLine);
}

/** What does not depend on the clock. */
function curve(output: string): unknown[] {
  return metricsOf(output).map(({ seconds: _seconds, tokensPerSecond: _rate, ...rest }) => rest);
}

let whole: Finished;
beforeAll(async () => {
  whole = await precis(command("whole", "--method", "ccm-concat", "--json"));
});

test("a run reports each step, and leaves metrics, a plot and an adapter behind", () => {
  expect(whole.code, whole.stderr).toBe(0);
  const lines = metricsOf("whole");
  expect(lines.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(lines.map(({ evalLoss }) => typeof evalLoss)).toEqual([
    "undefined",
    "undefined",
    "number",
    "undefined",
    "undefined",
    "number",
  ]);
  const result = JSON.parse(whole.stdout) as Record<string, unknown>;
  expect(result).toEqual({
    finished: true,
    step: 6,
    loss: lines[5].loss,
    evalLoss: lines[5].evalLoss,
    adapter: path("whole", "adapter"),
    plot: path("whole", "loss.svg"),
  });
  expect(readFileSync(path("whole", "loss.svg"), "utf8")).toMatch(/^<svg /);
  expect(whole.stderr).toMatch(/trained parameters/);
  expect(whole.stderr).toMatch(/step 6\/6 {2}loss \d+\.\d+ {2}held-out \d+\.\d+ .* tok\/s {2}0:00 left/);
});

test("killed at any moment, the same command goes on to the same losses and the same adapter", async () => {
  const args = command("killed", "--method", "ccm-concat");
  const running = start(args);
  await new Promise<void>((resolve) => {
    let stderr = "";
    running.child.stderr?.on("data", (data: Buffer) => {
      stderr += data.toString();
      if (/step 3\/6/.test(stderr)) resolve();
    });
    void running.finished.then(() => resolve());
  });
  running.child.kill("SIGKILL");
  expect((await running.finished).code).toBeNull();
  const resumed = await precis(args);
  expect(resumed.code, resumed.stderr).toBe(0);
  expect(resumed.stderr).not.toMatch(/step 1\/6/);
  expect(resumed.stdout).toMatch(/^Finished: step 6, loss \d+\.\d+\.\nAdapter: /);
  expect(curve("killed")).toEqual(curve("whole"));
  const tensors = (output: string): Buffer => readFileSync(path(output, "adapter", "adapter_model.safetensors"));
  expect(tensors("killed")).toEqual(tensors("whole"));
});

test("a time limit stops a run so that it can be resumed; other options are then refused by name", async () => {
  const args = command("limited", "--method", "gist");
  const stopped = await precis([...args, "--time-limit", "0"]);
  expect(stopped.code, stopped.stderr).toBe(0);
  expect(stopped.stdout).toMatch(/^Stopped; the same command goes on from here: step 0/);
  const other = await precis([...args, "--decay", "0.5"]);
  expect(other.code).not.toBe(0);
  expect(other.stderr).toMatch(/started with another "decay"/);
});

test.each([
  ["ccm-merge", ["--decay", "0.3", "--sink", "--recompute"], { average: "ema", decay: 0.3, sink: 1, recursive: true }],
  ["lora", ["--targets", "q_proj,down_proj", "--labels", "all", "--label-budget", "48"], undefined],
  ["autocompressor", ["--segment-length", "96", "--bptt", "2", "--labels", "all"], { limit: 8 }],
  ["rmt", ["--segment-length", "96", "--recompute"], {}],
  ["compressive", ["--comp-tokens", "3", "--no-recursive"], { slots: 3, limit: 12, sink: 0, recursive: false }],
  ["ccm-concat", ["--no-conditional"], { recursive: true }],
])("%s: the adapter is used as it was trained", async (method, more, options) => {
  const output = `use-${method}`;
  const run = await precis(
    command(output, "--method", method, "--steps", "2", "--mix", "icl=1,conversation=1", ...more),
  );
  expect(run.code, run.stderr).toBe(0);
  await using model = await loadModel(path("model"), { device: "cpu", threads: 1 });
  const memory = await model.createMemory({ adapter: path(output, "adapter") });
  expect(memory.adapter).toMatchObject({ gated: method === "ccm-merge" });
  if (options !== undefined) expect([memory.method, memory.options]).toMatchObject([method, options]);
  await memory.append([1, 20, 30]);
  expect((await memory.forward([40])).logits.every(Number.isFinite)).toBe(true);
});

test("a run that distils reports the distance to its teacher beside the loss", async () => {
  const run = await precis(
    command("distilled", "--method", "ccm-concat", "--distill", "0.5", "--distill-temperature", "2"),
  );
  expect(run.code, run.stderr).toBe(0);
  expect(run.stderr).toMatch(/step 6\/6 {2}loss \d+\.\d+ {2}KL \d+\.\d+ {2}held-out \d/);
  const lines = metricsOf("distilled");
  expect(lines.every(({ distillLoss }) => distillLoss !== undefined && distillLoss > 0)).toBe(true);
  // The same data: only what is learned from them differs.
  expect(lines[0].loss).toBeCloseTo(metricsOf("whole")[0].loss, 5);
});

test("training goes on from an adapter of the same shape, and refuses others by what differs", async () => {
  const lora = ["--method", "ccm-merge", "--targets", "all", "--steps", "2"];
  const first = await precis(command("first", ...lora));
  expect(first.code, first.stderr).toBe(0);
  const from = ["--init-adapter", path("first", "adapter")];
  // No learning: what comes out is what went in, whatever the alpha.
  const same = await precis(command("same", ...lora, ...from, "--learning-rate", "0", "--alpha", "32"));
  expect(same.code, same.stderr).toBe(0);
  const load = async (output: string) => {
    const { precis: card } = await readJsonObject(path(output, "adapter", "adapter_config.json"), "");
    const base = { fingerprint: (card as { base: string }).base, hiddenSize: 32 };
    const { config, lora: pairs, compEmbeddings } = await loadAdapter(path(output, "adapter"), base);
    return { alpha: config.alpha, pairs: [...pairs], compEmbeddings };
  };
  const [before, after] = [await load("first"), await load("same")];
  expect([before.alpha, after.alpha]).toEqual([8, 32]);
  expect(before.pairs).toHaveLength(2 * 7);
  expect(after.compEmbeddings).toEqual(before.compEmbeddings);
  expect(after.pairs).toEqual(before.pairs);
  const mistakes: [string[], RegExp][] = [
    [["--rank", "8"], /has rank 4, the run 8/],
    [["--targets", "qkvo"], /has a LoRA on layers\.0\.mlp\.\w+, which the run does not train/],
    [["--comp-tokens", "3"], /has 2 COMP tokens, the run 3/],
  ];
  for (const [flags, says] of mistakes) {
    const run = await precis(command("other", ...lora, ...from, ...flags));
    expect(run.stderr).toMatch(says);
  }
  const fewer = await precis(command("narrow", "--method", "ccm-merge", "--steps", "2"));
  expect(fewer.code).toBe(0);
  const wider = await precis(command("wide", ...lora, "--init-adapter", path("narrow", "adapter")));
  expect(wider.stderr).toMatch(/has no LoRA on layers\.0\.mlp\.\w+, which the run trains/);
});

test("mistakes are named, and nothing is left behind", async () => {
  const mistakes: [string[], RegExp][] = [
    [["--method", "full"], /cannot be trained[\s\S]*ccm-concat/],
    [["--method", "gist", "--rank", "0"], /"0" is not a whole number from 1 on/],
    [["--method", "gist", "--steps", "2.5"], /"2\.5" is not a whole number/],
    [["--method", "gist", "--learning-rate", "fast"], /"fast" is not a number/],
    [["--method", "gist", "--mix", "poems=1"], /no setting "poems"/],
    [["--method", "gist", "--targets", "r_proj"], /r_proj/],
    [["--method", "gist", "--labels", "none"], /none/],
    [["--method", "gist", "--lora-dropout", "1"], /"1" is not a number below 1/],
    [["--method", "gist", "--distill", "2"], /"2" is not a number from 0 to 1/],
    [["--method", "gist", "--distill-temperature", "0"], /"0" is not a number above 0/],
    [["--method", "gist", "--label-budget", "0"], /"0" is not a whole number/],
    [["--method", "ccm-merge", "--comp-tokens", "64"], /no room for text beside 512 COMP tokens[\s\S]*--row-length/],
    [["--method", "ccm-merge", "--decay", "2"], /decay/],
    [["--method", "gist", "--only", "nothing"], /no train data/],
  ];
  const runs = await Promise.all(mistakes.map(([flags]) => precis(command("wrong", ...flags))));
  runs.forEach(({ code, stdout, stderr }, index) => {
    expect(code, mistakes[index][0].join(" ")).not.toBe(0);
    expect(stderr).toMatch(mistakes[index][1]);
    expect(stdout).toBe("");
  });
  expect(existsSync(path("wrong", "state.safetensors"))).toBe(false);
});

test.each([
  { method: "sentinel", compTokens: 2, options: { span: 12 } },
  {
    method: "sentinel",
    folder: "recent",
    placement: ["--placement", "recent"],
    compTokens: 2,
    options: { span: 12, policy: "recent", ratio: 0.5 },
  },
  {
    method: "sentinel",
    folder: "spanwise",
    placement: ["--placement", "spanwise"],
    compTokens: 2,
    options: { span: 12, policy: "spanwise", ratio: 0.5 },
  },
  { method: "local", compTokens: 0, options: { ratio: 0.5 } },
  { method: "scattered", compTokens: 0, options: { ratio: 0.5 } },
])("$method learns from plain text with a LoRA at every token, and its memory takes the adapter", async (expected) => {
  const { method, compTokens, options } = expected;
  const { placement = [], folder = method } = expected;
  const text = ["--ratio", "0.1-0.9", "--block-tokens", "64", "--span-words", "12", "--row-length", "64"];
  const { code, stderr } = await precis(command(folder, "--method", method, ...text, ...placement));
  expect(code, stderr).toBe(0);
  const config = await readJsonObject(path(folder, "adapter", "adapter_config.json"), "");
  expect(config.precis).toMatchObject({ method, compTokens, gated: false, options });
  await using model = await loadModel(path("model"), { device: "cpu", threads: 1 });
  const memory = await model.createMemory({ adapter: path(folder, "adapter") });
  const stats = await memory.append("a bb ccc dd e f ".repeat(20));
  expect(stats.slots).toBeLessThan(stats.tokensSeen * 0.7);
});

test("streaming-ccm learns from long text, and its memory takes the sizes and positions that it was trained with", async () => {
  const sizes = ["--window", "40", "--compress", "12", "--memory", "4", "--sink", "--distill", "0.5"];
  const { code, stderr } = await precis(command("stream", "--method", "streaming-ccm", ...sizes));
  expect(code, stderr).toBe(0);
  expect(stderr).toMatch(/step 6\/6 {2}loss \d+\.\d+ {2}KL \d+\.\d+/);
  await using model = await loadModel(path("model"), { device: "cpu", threads: 1 });
  const memory = await model.createMemory({ adapter: path("stream", "adapter") });
  const options = {
    window: 40,
    compress: 12,
    memory: 4,
    sink: 1,
    release: "gradual",
    positions: "text",
    update: "concat",
  };
  expect([memory.method, memory.options]).toEqual(["streaming-ccm", options]);
  expect((await memory.append("a bb ccc dd e f ".repeat(20))).slots).toBeLessThanOrEqual(40);
  const short = await precis(command("short", "--method", "streaming-ccm", "--row-length", "128"));
  expect(short.stderr).toMatch(/ends before a window of 157 slots has left anything behind[\s\S]*--row-length/);
  const long = await precis(command("long", "--method", "streaming-ccm", ...sizes, "--block-tokens", "320"));
  expect(long.stderr).toMatch(/must have from 43 to \d+ tokens of text, not 320/);
});

test("sparse methods need a ratio, and a block must fit into a row", async () => {
  const without = await precis(command("ratio", "--method", "sentinel"));
  expect(without.code).not.toBe(0);
  expect(without.stderr).toMatch(/needs --ratio.*--ratio 0\.1-0\.9/s);
  const wrong = await precis(command("ratio", "--method", "local", "--ratio", "0.9-0.1"));
  expect(wrong.stderr).toMatch(/"0\.9-0\.1" is not a ratio/);
  const long = await precis(command("ratio", "--method", "local", "--ratio", "0.5", "--block-tokens", "400"));
  expect(long.stderr).toMatch(/no room for a block of 400/);
});

test("half floats: nearly the losses of float32, and a run goes on in the precision that it was started with", async () => {
  const half = (...more: string[]): string[] => command("half", "--method", "ccm-concat", "--json", ...more);
  const run = await precis(half("--precision", "fp16"));
  expect(run.code, run.stderr).toBe(0);
  const [narrow, wide] = [metricsOf("half"), metricsOf("whole")];
  expect(narrow.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
  narrow.forEach(({ loss, lossScale }, index) => {
    expect(loss / wide[index].loss).toBeCloseTo(1, 1);
    expect(lossScale).toBe(2 ** 15);
  });
  const other = await precis(half("--precision", "fp32"));
  expect(other.code).not.toBe(0);
  expect(other.stderr).toMatch(/another \\"precision\\"[\s\S]*Use \\"fp16\\"/);
});
