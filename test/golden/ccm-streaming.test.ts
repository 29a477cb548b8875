/** @file Endless streams against the authors' CCM and StreamingLLM code: every score, every eviction, the final cache. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { loadModel, type CreateMemoryOptions, type LanguageModel, type MemoryRows } from "#precis/index.js";
import { rotate } from "../reference/kernels.js";
import { convertGoldenAdapter } from "../reference/random-model.js";
import { difference, rowsOf } from "./compare.js";
import { goldenDirectory, goldenFloats, readGolden } from "./golden.js";

const TOLERANCE = 2e-4;
const directory = goldenDirectory("ccm");

const CCM = { window: 24, compress: 10, memory: 6 };
// The authors' baseline keeps as many slots as their method does after each compression.
const PACED = { window: 24, evict: 10, paceSlots: 2, paceLimit: 6 };
const RUNS: Record<string, CreateMemoryOptions> = {
  ccm_concat: { method: "streaming-ccm", options: { ...CCM, sink: 1 } },
  ccm_concat_nosink: { method: "streaming-ccm", options: { ...CCM, sink: 0 } },
  streamingllm: { method: "streaming", options: { ...PACED, sink: 1 } },
  streamingllm_nosink: { method: "streaming", options: { ...PACED, sink: 0 } },
  ccm_merge_value_fixed: { method: "streaming-ccm", options: { ...CCM, sink: 1, update: "merge" } },
};

interface CompressionEvent {
  after_token: number;
  cache_after: string[];
}

/** What a slot labelled `t12` or `c3.1` by the authors' run is to us. */
function kindOf(label: string): string {
  if (!label.startsWith("t")) return "memory";
  return label === "t0" ? "sink" : "text";
}

/** Keys as they were before rotation, then values, layer by layer: [layers, 2, heads, slots, headDim]. */
function unrotated(rows: MemoryRows): number[] {
  const frequencies = Float64Array.from({ length: rows.headDim / 2 }, (_, i) => 10_000 ** ((-2 * i) / rows.headDim));
  return rows.keys.flatMap((layer, index) => {
    const keys = Float64Array.from(layer);
    const back = rows.positions.map((position) => -position);
    rotate(keys, back, frequencies);
    return [...keys, ...(rows.values[index] as Float32Array)];
  });
}

describe.skipIf(directory === undefined).each(Object.keys(RUNS))("stream %s equals the authors' code", (run) => {
  const folder = directory as string;
  const golden = directory === undefined ? new Map() : readGolden(join(folder, "golden.safetensors"));
  const parse = (file: string): unknown =>
    directory === undefined ? { stream: { runs: {} } } : JSON.parse(readFileSync(join(folder, file), "utf8"));
  const { stream: ids } = parse("tokens.json") as { stream: number[] };
  const { stream } = parse("golden.json") as { stream: { runs: Record<string, { events: CompressionEvent[] }> } };
  const nll = (): Float32Array => goldenFloats(golden, `stream.${run}.nll`);
  const scratch = mkdtempSync(join(tmpdir(), "precis-golden-stream-"));
  let options: CreateMemoryOptions;
  let model: LanguageModel;
  beforeAll(async () => {
    options = { ...RUNS[run], adapter: convertGoldenAdapter(join(scratch, "adapter")).directory };
    model = await loadModel(folder, { device: "cpu" });
  });
  afterAll(async () => {
    await model.dispose();
    rmSync(scratch, { recursive: true });
  });

  test("scored in one call", async () => {
    const memory = await model.createMemory(options);
    expect(difference(await memory.score(ids), nll())).toBeLessThan(TOLERANCE);
  });

  test("scored in calls of any length", async () => {
    const memory = await model.createMemory(options);
    for (let start = 0, length = 1; start < ids.length; start += length, length = (length * 7) % 31) {
      const piece = ids.slice(start, start + length);
      const scores = await memory.score(piece);
      // The first token of a call is context only, as nothing is known of the token before it.
      expect(difference(scores, nll().subarray(start, start + piece.length - 1))).toBeLessThan(TOLERANCE);
    }
  });

  test("token by token: logits, positions, evictions and the final cache", async () => {
    const memory = await model.createMemory(options);
    const positions = [...(golden.get(`stream.${run}.position`)?.data ?? [])];
    const events = new Map(stream.runs[run]?.events.map((event) => [event.after_token, event.cache_after]));
    const logits = goldenFloats(golden, `stream.${run}.logits`);
    let evictions = 0;
    for (let token = 0; token < ids.length - 1; token++) {
      const before = await memory.stats();
      expect(before).toMatchObject({ position: positions[token], slots: positions[token], tokensSeen: token });
      const output = await memory.forward([ids[token]]);
      expect(difference(output.logits, rowsOf(logits, 256, token, token + 1))).toBeLessThan(TOLERANCE);
      await memory.score([ids[token]]);
      const after = await memory.stats();
      const event = events.get(token);
      expect(after.slots).toBe(event?.length ?? before.slots + 1);
      if (event === undefined) continue;
      evictions += 1;
      const { kinds, positions: held } = await memory.rows();
      expect(held).toEqual(event.map((_, slot) => slot));
      if (run.startsWith("ccm")) expect(kinds).toEqual(event.map(kindOf));
    }
    expect(evictions).toBe(events.size);
    const final = goldenFloats(golden, `stream.${run}.final_kv`);
    expect(difference(unrotated(await memory.rows()), final)).toBeLessThan(1e-4);
  });
});
