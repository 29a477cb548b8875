/** @file Memories against the authors' CCM code: rows after every step, logits given the memory, greedy answers. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { loadModel, type CreateMemoryOptions, type LanguageModel, type Memory } from "#precis/index.js";
import { convertGoldenAdapter } from "../reference/random-model.js";
import { difference, rowsOf } from "./compare.js";
import { goldenDirectory, goldenFloats, readGolden } from "./golden.js";

const MEMORY_TOLERANCE = 1e-4;
const LOGITS_TOLERANCE = 2e-4;
const VOCAB = 256;
const directory = goldenDirectory("ccm");

/** How users ask for what the reference calls by these names. */
const MODES: Record<string, CreateMemoryOptions> = {
  concat_recur: { method: "ccm-concat" },
  merge_recur: { method: "ccm-merge" },
  concat: { method: "ccm-concat", options: { recursive: false } },
  merge: { method: "ccm-merge", options: { recursive: false } },
  gist: { method: "gist" },
  full: { method: "full" },
  nocontext: { method: "none" },
  concat_recur_sink: { method: "ccm-concat", options: { sink: 1 } },
  merge_recur_sink: { method: "ccm-merge", options: { sink: 1 } },
};

interface Segments {
  chunks: number[][];
  query: number[];
  target: number[];
}

describe.skipIf(directory === undefined)("compressed memory equals the authors' code", () => {
  const folder = directory as string;
  const golden = directory === undefined ? new Map() : readGolden(join(folder, "golden.safetensors"));
  const parse = (file: string): unknown =>
    directory === undefined ? undefined : JSON.parse(readFileSync(join(folder, file), "utf8"));
  const tokens = parse("tokens.json") as { bos: number; sep: number[]; segments: Record<string, Segments[]> };
  const facts = parse("golden.json") as { generate: Record<string, { recursive: number[] }> };
  const scratch = mkdtempSync(join(tmpdir(), "precis-golden-memory-"));
  const cases = Object.keys(MODES).flatMap((mode) => [0, 1].map((b) => [mode, b] as const));
  let adapter: string;
  let model: LanguageModel;
  beforeAll(async () => {
    adapter = convertGoldenAdapter(join(scratch, "adapter")).directory;
    model = await loadModel(folder, { device: "cpu" });
  });
  afterAll(async () => {
    await model.dispose();
    rmSync(scratch, { recursive: true });
  });

  /** The steps and the input of a mode as the reference feeds them. */
  function textOf(mode: string, b: number): Segments {
    const { chunks, query, target } = tokens.segments["concat_recur"][b];
    if (mode === "gist") return { chunks: [chunks.flat()], query, target };
    // Without context the reference begins with BOS where the query else has its separator.
    if (mode === "nocontext") return { chunks, query: [tokens.bos, ...query.slice(tokens.sep.length)], target };
    return { chunks, query, target };
  }

  /** A memory of this mode that has read every step. */
  async function filled(mode: string, b: number): Promise<Memory> {
    const memory = await model.createMemory({ ...MODES[mode], adapter });
    for (const chunk of textOf(mode, b).chunks) await memory.append(chunk);
    return memory;
  }

  test.each(cases)("%s, sequence %i: memory after each step", async (mode, b) => {
    const memory = await model.createMemory({ ...MODES[mode], adapter });
    const { chunks } = textOf(mode, b);
    let compared = 0;
    for (const [step, chunk] of chunks.entries()) {
      await memory.append(chunk);
      const name = `${mode}.online.seq${b}.step${step}.memory`;
      if (!golden.has(name)) continue;
      const { keys, values, positions } = await memory.rows();
      const [layers, , , slots] = golden.get(name)!.shape as number[];
      expect([keys.length, positions.length]).toEqual([layers, slots]);
      const held = keys.flatMap((layer, index) => [...layer, ...(values[index] as Float32Array)]);
      expect(difference(held, goldenFloats(golden, name))).toBeLessThan(MEMORY_TOLERANCE);
      compared += 1;
    }
    expect(compared).toBe(mode === "full" || mode === "nocontext" ? 0 : chunks.length);
    expect(await memory.stats()).toMatchObject({ steps: chunks.length, tokensSeen: chunks.flat().length });
  });

  test.each(cases)("%s, sequence %i: logits of query and target", async (mode, b) => {
    const memory = await filled(mode, b);
    const { query, target } = textOf(mode, b);
    const { logits } = await memory.forward([...query, ...target]);
    expect(difference(logits, goldenFloats(golden, `${mode}.online.seq${b}.input_logits`))).toBeLessThan(
      LOGITS_TOLERANCE,
    );
  });

  test("gist read chunk by chunk equals gist read at once", async () => {
    const { chunks, query, target } = textOf("concat_recur", 0);
    const memory = await model.createMemory({ method: "gist", adapter });
    for (const chunk of chunks) await memory.append(chunk);
    const { logits } = await memory.forward([...query, ...target]);
    expect(difference(logits, goldenFloats(golden, "gist.online.seq0.input_logits"))).toBeLessThan(LOGITS_TOLERANCE);
  });

  const answered = ["concat_recur", "merge_recur", "concat_recur_sink", "merge_recur_sink"].flatMap((mode) =>
    [0, 1].map((b) => [mode, b] as const),
  );
  test.each(answered)("%s, sequence %i: greedy answer", async (mode, b) => {
    const memory = await filled(mode, b);
    const { query } = textOf(mode, b);
    const expected = facts.generate[`${mode}.seq${b}`]?.recursive as number[];
    const scores = goldenFloats(golden, `${mode}.generate.seq${b}.scores_recursive`);
    const { logits } = await memory.forward([...query, ...expected.slice(0, -1)]);
    const last = rowsOf(logits, VOCAB, query.length - 1, query.length - 1 + expected.length);
    expect(difference(last, scores)).toBeLessThan(LOGITS_TOLERANCE);
    const answer = await memory.answer(query, { maxTokens: expected.length, ignoreEos: true });
    expect(answer.tokenIds).toEqual(expected);
  });
});
