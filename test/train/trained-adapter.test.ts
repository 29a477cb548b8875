/** @file What training measures is what inference does: one parallel pass against a memory that uses the saved adapter. */

import { cpSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { loraTargets } from "#precis/cli/train/mode.js";
import type { LoraTarget } from "#precis/models/decoder-io.js";
import { loadModel, type LanguageModel } from "#precis/index.js";
import { padLayouts } from "#precis/train/padded-batch.js";
import { IGNORED_LABEL } from "#precis/train/parallel-layout.js";
import { compTokenIds, type ParallelMode } from "#precis/train/parallel-mode.js";
import { layoutStream, type StreamMode } from "#precis/train/stream-layout.js";
import { layoutSpans, layoutText, type TextMode } from "#precis/train/text-layout.js";
import { stableHash } from "#precis/data/random.js";
import { saveTrainedAdapter } from "#precis/train/save-adapter.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";
import { goldenDirectory } from "../golden/golden.js";
import { writeByteTokenizer } from "../reference/byte-tokenizer.js";
import { IDS, layoutOf, MODES, openTraining, specFor, type PlainSample, type TinyTraining } from "./tiny-training.js";

const TOLERANCE = 1e-4;
const SAMPLES: readonly PlainSample[] = [
  {
    chunks: [[1, ...textIds(6)], textIds(3, 1), textIds(9, 2), textIds(5, 3)],
    input: textIds(4, 4),
    target: textIds(6, 5),
  },
  { chunks: [[1, ...textIds(4, 6)]], input: textIds(1, 7), target: textIds(9, 8) },
];

/** Mean negative log-likelihood of `target` where row `first` of the logits predicts its first token. */
function meanLoss(logits: Float32Array, first: number, target: readonly number[]): number {
  const vocab = 320;
  let sum = 0;
  target.forEach((id, i) => {
    const row = logits.subarray((first + i) * vocab, (first + i + 1) * vocab);
    const most = Math.max(...row);
    sum += most + Math.log(row.reduce((total, value) => total + Math.exp(value - most), 0)) - row[id];
  });
  return sum / target.length;
}

/** The memory method that a mode trains for, and its options, as the command line writes them. */
function memoryFor(mode: ParallelMode): { method?: string; methodOptions?: Record<string, unknown>; gated?: boolean } {
  const sink = mode.sink === true ? 1 : 0;
  const { recursive } = mode;
  if (mode.method === "concat") return { method: "ccm-concat", methodOptions: { recursive, sink } };
  if (mode.method === "gist") return { method: "gist" };
  if (mode.method === "compressive") {
    const methodOptions = { recursive, sink, slots: mode.compTokens };
    return { method: "compressive", methodOptions, gated: false };
  }
  if (mode.method !== "merge") return {};
  const average = mode.decay === undefined ? {} : { average: "ema", decay: mode.decay };
  return { method: "ccm-merge", methodOptions: { recursive, sink, ...average } };
}

/** A model loaded for inference and opened for training. */
interface Pair {
  model: LanguageModel;
  tiny: TinyTraining;
  scratch: string;
}

/** Trains one step, saves the adapter, and compares the losses of every sample. */
async function expectSameLosses(
  { model, tiny, scratch }: Pair,
  mode: ParallelMode,
  targets: readonly LoraTarget[] = loraTargets({ targets: "qkvo" }),
  conditional = true,
): Promise<void> {
  const directory = mkdtempSync(join(scratch, "adapter-"));
  const layouts = SAMPLES.map((sample) => layoutOf(sample, mode));
  const spec = { ...specFor(mode, 1, Math.max(...layouts.map(({ seq }) => seq))), targets, conditional };
  await using trainer = await tiny.trainer(spec);
  // Away from the starting values, as training goes.
  await trainer.takeStep([padLayouts([layouts[0]], { length: spec.seq })], 0.05);
  const { parameters } = await trainer.state();
  await saveTrainedAdapter(directory, tiny.base.config, spec, trainer.layout, parameters, {
    alpha: spec.loraScale * spec.rank,
    base: tiny.base.fingerprint,
    trainingSummary: { steps: 1 },
    ...memoryFor(mode),
    ...(conditional ? {} : { gated: false }),
  });
  for (const [index, sample] of SAMPLES.entries()) {
    const parallel = await trainer.evaluate(padLayouts([layouts[index]], { length: spec.seq }));
    const memory = await model.createMemory({ adapter: directory });
    expect(memory.adapter?.compTokens ?? 0).toBe(compTokenIds(mode).length);
    for (const chunk of sample.chunks) await memory.append(chunk);
    const { logits } = await memory.forward([...sample.input, ...sample.target]);
    const online = meanLoss(logits, sample.input.length - 1, sample.target);
    expect(Math.abs(online - parallel.loss)).toBeLessThan(TOLERANCE);
    await memory.dispose();
  }
}

/** The same for a text: one parallel pass with spans, or sparse attention, against a memory that is given the text. */
async function expectSameTextLosses(
  { model, tiny, scratch }: Pair,
  mode: Exclude<TextMode, StreamMode>,
): Promise<void> {
  const directory = mkdtempSync(join(scratch, "adapter-"));
  const ids = [1, ...textIds(59)];
  const spans = [
    [3, 9],
    [9, 12],
    [20, 26],
    [50, 55],
  ].map(([start, end]) => ({ start, end }));
  const isSentinel = mode.method === "sentinel";
  const layout = isSentinel
    ? layoutSpans(ids, spans, mode)
    : layoutText({ key: "text", ids, wordStarts: ids.map((_, i) => i) }, mode);
  const spec = { ...specFor({ ...IDS, method: "full" }, 1, layout.seq), compTokens: isSentinel ? 2 : 0 };
  await using trainer = await tiny.trainer(spec);
  await trainer.takeStep([padLayouts([layout])], 0.05);
  const { parameters } = await trainer.state();
  const options = {
    sentinel: { policy: "marked" },
    local: { ratio: 0.7 },
    scattered: { ratio: 0.7, seed: stableHash("text") },
    text: undefined,
  };
  await saveTrainedAdapter(directory, tiny.base.config, spec, trainer.layout, parameters, {
    alpha: spec.loraScale * spec.rank,
    base: tiny.base.fingerprint,
    trainingSummary: { steps: 1 },
    ...(mode.method === "text" ? {} : { method: mode.method, methodOptions: options[mode.method], gated: false }),
  });
  const memory = await model.createMemory({ adapter: directory });
  expect(memory.adapter?.gated).toBe(false);
  const parallel = await trainer.evaluate(padLayouts([layout]));
  const nll = await memory.score(Array.from(layout.inputIds));
  expect(Math.abs(nll.reduce((sum, value) => sum + value, 0) / nll.length - parallel.loss)).toBeLessThan(TOLERANCE);
  if (isSentinel) expect((await memory.stats()).slots).toBe(ids.length - (5 + 2 + 5 + 4));
  await memory.dispose();
}

/** The same for a stream: one pass over it against a memory that compresses what leaves its window. */
async function expectSameStreamLosses({ model, tiny, scratch }: Pair): Promise<void> {
  const directory = mkdtempSync(join(scratch, "adapter-"));
  const ids = [1, ...textIds(79)];
  const sizes = { window: 16, compress: 5, memory: 4, sink: 0, release: "gradual" } as const;
  const mode: StreamMode = { ...IDS, ...sizes, method: "streaming", compTokens: 2, blockTokens: ids.length };
  const layout = layoutStream(ids, mode);
  const spec = { ...specFor({ ...IDS, method: "full" }, 1, layout.seq), compTokens: 2 };
  await using trainer = await tiny.trainer(spec);
  await trainer.takeStep([padLayouts([layout])], 0.05);
  const { parameters } = await trainer.state();
  await saveTrainedAdapter(directory, tiny.base.config, spec, trainer.layout, parameters, {
    alpha: spec.loraScale * spec.rank,
    base: tiny.base.fingerprint,
    trainingSummary: { steps: 1 },
    method: "streaming-ccm",
    methodOptions: { ...sizes, positions: "text" },
  });
  const memory = await model.createMemory({ adapter: directory });
  const { loss } = await trainer.evaluate(padLayouts([layout]));
  const nll = await memory.score(ids);
  const labelled = layout.labels.reduce((count, label) => count + (label === IGNORED_LABEL ? 0 : 1), 0);
  expect(labelled).toBe(ids.length - 18);
  const online = nll.subarray(nll.length - labelled).reduce((sum, value) => sum + value, 0) / labelled;
  expect(Math.abs(online - loss)).toBeLessThan(TOLERANCE);
  await memory.dispose();
}

const TEXT_MODES: readonly Exclude<TextMode, StreamMode>[] = [
  { ...IDS, method: "sentinel", blockTokens: 100, ratios: [0, 0], longest: 25 },
  { ...IDS, method: "local", blockTokens: 100, ratios: [0.7, 0.7] },
  { ...IDS, method: "scattered", blockTokens: 100, ratios: [0.7, 0.7] },
  { ...IDS, method: "text", blockTokens: 100 },
];

const RANDOM_MODELS = [
  ["llama", "llama", {}],
  ["qwen3", "qwen3", {}],
  ["mistral with a window of 8", "mistral", { sliding_window: 8 }],
] as const;

describe.each(RANDOM_MODELS)("%s", (_name, architecture, config) => {
  let fixture: Fixture;
  let pair: Pair;
  beforeAll(async () => {
    fixture = await createFixture({ architecture }, { config });
    const { model, scratch, files } = fixture;
    pair = { model, scratch, tiny: await openTraining(files.directory, scratch) };
  });
  afterAll(() => fixture[Symbol.asyncDispose]());

  const aloneWithSink = { ...MODES["merge, each step alone"], sink: true } as ParallelMode;
  const cases = Object.entries({ ...MODES, "merge, sink and each step alone": aloneWithSink });
  test.each(cases)("%s", (_mode, mode) => expectSameLosses(pair, mode));

  test.each(TEXT_MODES)("text under $method attention", (mode) => expectSameTextLosses(pair, mode));

  test("a stream", () => expectSameStreamLosses(pair));

  test.each(["concat, recursive", "merge, recursive", "gist", "full"])("%s, a LoRA on the MLP as well", (mode) =>
    expectSameLosses(pair, MODES[mode], loraTargets({ targets: "all" })),
  );

  test.each(["concat, sink", "merge, recursive", "gist"])("%s, a LoRA at every token", (mode) =>
    expectSameLosses(pair, MODES[mode], loraTargets({ targets: "all" }), false),
  );
});

describe.skipIf(goldenDirectory("hf") === undefined).each(["gemma3", "qwen2", "phi3"])("%s", (family) => {
  let pair: Pair;
  beforeAll(async () => {
    const scratch = mkdtempSync(join(tmpdir(), "precis-family-"));
    const directory = join(scratch, "model");
    cpSync(goldenDirectory(`hf/${family}`) as string, directory, { recursive: true });
    writeByteTokenizer(directory, IDS.vocabSize);
    const model = await loadModel(directory, { device: "cpu", threads: 1 });
    pair = { model, scratch, tiny: await openTraining(directory, scratch) };
  });
  afterAll(async () => {
    await pair.model.dispose();
    await pair.tiny[Symbol.asyncDispose]();
  });

  test.each(["concat, sink", "merge, recursive", "full"])("%s", (mode) => expectSameLosses(pair, MODES[mode]));
});
