/** @file Every supported family against transformers: logits, keys and values, decoding in pieces, greedy text. */

import { join } from "node:path";

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { loadModel, type LanguageModel } from "#precis/index.js";
import { KvRow } from "#precis/cache/kv-row.js";
import { LoadedModel } from "#precis/runtime/loaded-model.js";
import type { SequenceInput } from "#precis/runtime/sequence-input.js";
import { difference, headRows, largest, rowsOf } from "./compare.js";
import { goldenDirectory, goldenFloats, goldenNumbers, readGolden } from "./golden.js";

const FAMILIES = ["llama", "llama3rope", "mistral", "qwen2", "qwen3", "phi3", "gemma3"];
const LENGTH = 48;
const VOCAB = 320;
/** Length of the prompt that `greedy` begins with. */
const PROMPT = 20;
const RELATIVE_TOLERANCE = 1e-4;

function inputOf(past: KvRow, ids: readonly number[]): SequenceInput {
  return { past, ids, positions: ids.map((_, index) => past.length + index) };
}

describe.skipIf(goldenDirectory("hf") === undefined).each(FAMILIES)("%s agrees with transformers", (family) => {
  const directory = goldenDirectory(`hf/${family}`) as string;
  const golden = directory === undefined ? new Map() : readGolden(join(directory, "golden.safetensors"));
  const ids = (row: number): number[] => goldenNumbers(golden, "input_ids").slice(row * LENGTH, (row + 1) * LENGTH);
  const logits = (row: number): Float32Array =>
    rowsOf(goldenFloats(golden, "logits"), VOCAB, row * LENGTH, (row + 1) * LENGTH);
  const expectLogits = (actual: Float32Array, expected: Float32Array): void => {
    expect(difference(actual, expected)).toBeLessThanOrEqual(RELATIVE_TOLERANCE * largest(expected));
  };
  let model: LanguageModel;
  let inProcess: LoadedModel;
  beforeAll(async () => {
    model = await loadModel(directory, { device: "cpu" });
    inProcess = await LoadedModel.load(
      directory,
      { dtype: "fp32", device: "cpu" },
      { signal: new AbortController().signal, onProgress: () => undefined },
    );
  });
  afterAll(async () => {
    await model.dispose();
    await inProcess.dispose();
  });

  /** Logits of `tokens` fed in pieces of these lengths; the last piece takes the rest. */
  async function inPieces(tokens: readonly number[], lengths: readonly number[]): Promise<Float32Array> {
    const row = new KvRow(inProcess.runner.shape);
    const result = new Float32Array(tokens.length * VOCAB);
    for (const length of [...lengths, tokens.length]) {
      const piece = tokens.slice(row.length, row.length + length);
      if (piece.length === 0) break;
      const input = inputOf(row, piece);
      const output = await inProcess.runner.forward([input], { logits: "all" });
      result.set(output.logits, row.length * VOCAB);
      row.append(output, 0, 0, input.positions, "text");
    }
    return result;
  }

  test.each([0, 1])("logits of input %i", async (row) => {
    const memory = await model.createMemory();
    const output = await memory.forward(ids(row));
    expect(output).toMatchObject({ tokens: LENGTH, vocabSize: VOCAB });
    expectLogits(output.logits, logits(row));
  });

  test.each([0, 1])("keys and values of input %i", async (row) => {
    const memory = await model.createMemory();
    await memory.append(ids(row));
    const held = await memory.rows();
    for (let layer = 0; layer < held.keys.length; layer++) {
      // A sliding-window cache of transformers keeps the last rows only.
      const [, heads, rows, size] = golden.get(`key.${layer}`)!.shape as [number, number, number, number];
      for (const [name, ours] of [
        ["key", held.keys[layer]],
        ["value", held.values[layer]],
      ] as const) {
        const expected = rowsOf(goldenFloats(golden, `${name}.${layer}`), heads * rows * size, row, row + 1);
        const actual = headRows(ours, [heads, LENGTH, size], LENGTH - rows, LENGTH);
        expect(difference(actual, expected)).toBeLessThanOrEqual(RELATIVE_TOLERANCE * largest(expected));
      }
    }
  });

  test("inputs of different lengths and pasts, padded into one batch", async () => {
    const { runner } = inProcess;
    // Row 1 has a past of 11 tokens, row 2 is a piece of row 0 and one token short of it, row 3 is a single token.
    const past = new KvRow(runner.shape);
    const start = inputOf(past, ids(1).slice(0, 11));
    past.append(await runner.forward([start], { logits: "none" }), 0, 0, start.positions, "text");
    const batch = [
      inputOf(new KvRow(runner.shape), ids(0)),
      inputOf(past, ids(1).slice(11)),
      inputOf(new KvRow(runner.shape), ids(0).slice(0, LENGTH - 1)),
      inputOf(new KvRow(runner.shape), ids(1).slice(0, 1)),
    ];
    const output = await runner.forward(batch, { logits: "all" });
    const expected = [
      logits(0),
      rowsOf(logits(1), VOCAB, 11, LENGTH),
      rowsOf(logits(0), VOCAB, 0, LENGTH - 1),
      rowsOf(logits(1), VOCAB, 0, 1),
    ];
    let offset = 0;
    for (const part of expected) {
      expectLogits(output.logits.subarray(offset, offset + part.length), part);
      offset += part.length;
    }
    expect(offset).toBe(output.logits.length);
  });

  test("decoding token by token", async () => {
    expectLogits(
      await inPieces(
        ids(0),
        ids(0).map(() => 1),
      ),
      logits(0),
    );
  });

  test("decoding in pieces of any lengths", async () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(lengths, fc.constantFrom(0, 1), async (pieces, row) =>
        expectLogits(await inPieces(ids(row), pieces), logits(row)),
      ),
      { numRuns: 12 },
    );
  });

  test("greedy continuation", async () => {
    const greedy = goldenNumbers(golden, "greedy");
    const prompt = greedy.slice(0, PROMPT);
    expect(prompt).toEqual(ids(0).slice(0, PROMPT));
    const memory = await model.createMemory();
    const answer = await memory.answer(prompt, { maxTokens: greedy.length - PROMPT, ignoreEos: true });
    expect(answer.tokenIds).toEqual(greedy.slice(PROMPT));
    expect(answer.reason).toBe("length");
  });
});
