/** @file The tiny random model, adapters and methods that conformance tests run on. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import {
  loadModel,
  type CreateMemoryOptions,
  type LanguageModel,
  type LoadOptions,
  type Memory,
} from "#precis/index.js";
import {
  writeRandomAdapter,
  writeRandomModel,
  type RandomModel,
  type RandomModelOptions,
  type ReferenceAdapter,
} from "../reference/random-model.js";

/** A random model on disk with one adapter, and the same model loaded. */
export interface Fixture extends AsyncDisposable {
  model: LanguageModel;
  files: RandomModel;
  adapter: ReferenceAdapter;
  /** Another adapter, whose new tokens are sentinels and which acts at all tokens. */
  sentinelAdapter: ReferenceAdapter;
  /** The folders of the adapters that a memory needs. */
  adaptersOf(options: CreateMemoryOptions): Pick<CreateMemoryOptions, "adapter" | "spanAdapter">;
  /** An empty folder for further files; removed with the fixture. */
  scratch: string;
  /** An adapter for recurrent summaries, which acts at every token. */
  recurrent: ReferenceAdapter;
  /** A memory of the model; adapters are passed to methods that need some. */
  memory(options?: CreateMemoryOptions): Promise<Memory>;
}

/** Sizes that keep a pass well under a millisecond. */
const SIZES: RandomModelOptions = { hiddenSize: 32, layers: 2, queryHeads: 4, kvHeads: 2, seed: 11 };

/** Writes and loads a random model. `config` replaces fields of its config.json. */
export async function createFixture(
  options: RandomModelOptions = {},
  load: LoadOptions & { config?: Record<string, unknown> } = {},
): Promise<Fixture> {
  const scratch = mkdtempSync(join(tmpdir(), "precis-fixture-"));
  const files = writeRandomModel(join(scratch, "model"), { ...SIZES, ...options });
  Object.assign(files.config, load.config);
  writeFileSync(join(files.directory, "config.json"), JSON.stringify(files.config));
  const adapter = writeRandomAdapter(join(scratch, "adapter"), files.options);
  const recurrent = writeRandomAdapter(join(scratch, "recurrent"), { ...files.options, recurrent: true });
  const sentinelAdapter = writeSentinelAdapter(join(scratch, "sentinel"), files.options);
  const model = await loadModel(files.directory, { device: "cpu", threads: 1, ...load });
  const adaptersOf: Fixture["adaptersOf"] = ({ method = "", options: { spans = "none" } = {} }) => ({
    ...(NEEDS_ADAPTER.test(method) ? { adapter: adapter.directory } : {}),
    ...(RECURRENT.test(method) ? { adapter: recurrent.directory } : {}),
    ...(method === "sentinel" ? { adapter: sentinelAdapter.directory } : {}),
    ...(spans === "none" ? {} : { spanAdapter: sentinelAdapter.directory }),
  });
  return {
    model,
    files,
    adapter,
    recurrent,
    sentinelAdapter,
    adaptersOf,
    scratch,
    memory: (memoryOptions = {}) => model.createMemory({ ...memoryOptions, ...adaptersOf(memoryOptions) }),
    async [Symbol.asyncDispose]() {
      await model.dispose();
      rmSync(scratch, { recursive: true });
    },
  };
}

const NEEDS_ADAPTER = /ccm|gist/;
const RECURRENT = /autocompressor|rmt/;

/** Writes a random adapter as `precis train --method sentinel` would. */
function writeSentinelAdapter(directory: string, options: RandomModelOptions): ReferenceAdapter {
  const adapter = writeRandomAdapter(directory, { ...options, seed: (options.seed ?? 0) + 1, compTokens: 2 });
  const file = join(adapter.directory, "adapter_config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as { precis: Record<string, unknown> };
  Object.assign(config.precis, { method: "sentinel", gated: false });
  writeFileSync(file, JSON.stringify(config));
  return adapter;
}

/** Every method as it is tried; options are small enough for a few dozen tokens to matter. */
export const TRIED_METHODS: readonly (CreateMemoryOptions & { method: string; label: string; slots?: number })[] = [
  { label: "full", method: "full" },
  { label: "none", method: "none", slots: 0 },
  { label: "sliding-window", method: "sliding-window", options: { window: 8 }, slots: 8 },
  { label: "streaming", method: "streaming", options: { window: 12, sink: 2, evict: 4 }, slots: 12 },
  { label: "ccm-concat", method: "ccm-concat" },
  { label: "ccm-concat, each step alone", method: "ccm-concat", options: { recursive: false } },
  { label: "ccm-merge", method: "ccm-merge", slots: 2 },
  { label: "ccm-merge, sink", method: "ccm-merge", options: { sink: 1 }, slots: 3 },
  { label: "ccm-merge, moving average", method: "ccm-merge", options: { average: "ema", decay: 0.3 }, slots: 2 },
  { label: "gist", method: "gist", slots: 2 },
  { label: "compressive", method: "compressive" },
  { label: "compressive, bounded", method: "compressive", options: { slots: 2, sink: 1, limit: 6 }, slots: 7 },
  { label: "autocompressor", method: "autocompressor" },
  { label: "autocompressor, bounded", method: "autocompressor", options: { limit: 6 }, slots: 6 },
  { label: "rmt", method: "rmt", slots: 2 },
  { label: "compressive, each step alone", method: "compressive", options: { pool: 3, recursive: false } },
  { label: "streaming-ccm", method: "streaming-ccm", options: { window: 14, compress: 5, memory: 4 }, slots: 14 },
  {
    label: "streaming-ccm, merge",
    method: "streaming-ccm",
    options: { window: 14, compress: 5, memory: 4, update: "merge" },
    slots: 14,
  },
  {
    label: "streaming-ccm, positions of the text",
    method: "streaming-ccm",
    options: { window: 14, compress: 5, memory: 4, positions: "text" },
    slots: 14,
  },
  {
    label: "streaming-ccm, merge, positions of the text",
    method: "streaming-ccm",
    options: { window: 14, compress: 5, memory: 4, update: "merge", positions: "text" },
    slots: 14,
  },
  {
    label: "streaming-ccm, gradual",
    method: "streaming-ccm",
    options: { window: 14, compress: 5, memory: 4, release: "gradual" },
    slots: 14,
  },
  {
    label: "streaming-ccm, gradual, merge, positions of the text",
    method: "streaming-ccm",
    options: { window: 14, compress: 5, memory: 4, release: "gradual", update: "merge", positions: "text" },
    slots: 14,
  },
  { label: "sentinel", method: "sentinel", options: { span: 3 } },
  { label: "sentinel, some spans", method: "sentinel", options: { policy: "every", span: 3, ratio: 0.4 } },
  { label: "sentinel, sentences", method: "sentinel", options: { policy: "sentence", span: 4 } },
  { label: "sentinel, what is older", method: "sentinel", options: { policy: "older", span: 3, window: 6 } },
  { label: "sentinel, what is recent", method: "sentinel", options: { policy: "recent", span: 3, ratio: 0.6 } },
  { label: "sentinel, spanwise", method: "sentinel", options: { policy: "spanwise", span: 3, ratio: 0.6 } },
  { label: "sentinel, marked", method: "sentinel", options: { policy: "marked" } },
  { label: "ccm-concat with spans", method: "ccm-concat", options: { spans: "fixed", spanWords: 3 } },
  {
    label: "ccm-merge with spans, each step alone",
    method: "ccm-merge",
    options: { spans: "sentence", spanWords: 4, recursive: false },
    slots: 2,
  },
  { label: "local", method: "local", options: { ratio: 0.6 } },
  { label: "scattered", method: "scattered", options: { ratio: 0.6, seed: 3 } },
];

/** Deterministic token ids of text: never a special token. */
export function textIds(count: number, seed = 0): number[] {
  return Array.from({ length: count }, (_, i) => 10 + (((i + 1) * 37 + seed * 101 + ((i * i) % 17)) % 250));
}
