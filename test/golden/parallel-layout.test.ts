/** @file The parallel layout against what the authors' collator and model built, element for element. */

import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { padLayouts } from "#precis/train/padded-batch.js";
import { buildLayout } from "#precis/train/parallel-layout.js";
import { GOLDEN_MODES, goldenLayouts, goldenMode } from "./ccm.js";
import { goldenDirectory, goldenFloats, goldenNumbers, readGolden, type GoldenTensor } from "./golden.js";
import { dense, type DenseBatch } from "../reference/dense-batch.js";

const directory = goldenDirectory("ccm");

/** The collator's mask, not causal, cut to what is attended as the notes define it. */
function attendOf(golden: Map<string, GoldenTensor>, prefix: string, seq: number): number[] {
  const real = goldenNumbers(golden, `${prefix}.attention_mask`);
  return goldenNumbers(golden, `${prefix}.attention_mask_comp`).map((visible, at) => {
    const [b, row, column] = [Math.floor(at / seq / seq), Math.floor(at / seq) % seq, at % seq];
    return visible && column <= row && real[b * seq + row] && real[b * seq + column] ? 1 : 0;
  });
}

function checkBatch(batch: DenseBatch, golden: Map<string, GoldenTensor>, prefix: string): void {
  const numbers = (name: string): number[] => goldenNumbers(golden, `${prefix}.${name}`);
  const has = (name: string): boolean => golden.has(`${prefix}.${name}`);
  const count = batch.batch * batch.seq;
  expect([...batch.inputIds]).toEqual(numbers("input_ids"));
  expect([...batch.attentionMask]).toEqual(numbers("attention_mask"));
  expect([...batch.positionIds]).toEqual(numbers("position_ids"));
  expect([...batch.gate]).toEqual(has("comp_mask") ? numbers("comp_mask") : Array.from({ length: count }, () => 0));
  expect(has("sum_mask")).toBe(batch.averaging !== undefined);
  if (batch.averaging !== undefined) {
    expect([...batch.sumMask]).toEqual(numbers("sum_mask"));
    expect(Buffer.from(batch.averaging.buffer)).toEqual(
      Buffer.from(goldenFloats(golden, `${prefix}.sum_attn_mask`).buffer),
    );
  }
  if (has("attend")) expect([...batch.attend]).toEqual(numbers("attend"));
  if (has("attention_mask_comp")) expect([...batch.attend]).toEqual(attendOf(golden, prefix, batch.seq));
  expect(has("attend") || has("attention_mask_comp")).toBe(true);
}

describe.skipIf(directory === undefined)("parallel layout, golden", () => {
  const golden = directory === undefined ? new Map() : readGolden(join(directory, "golden.safetensors"));

  test.each(GOLDEN_MODES)("%s", (name) => {
    const batch = dense(padLayouts(goldenLayouts(directory as string, name)));
    checkBatch(batch, golden, name);
    expect([...batch.labels]).toEqual(goldenNumbers(golden, `${name}.labels`));
  });

  test.each(["concat_recur", "merge_recur", "concat", "merge"])("%s, all of the input labelled", (name) => {
    const labels = { start: 1 };
    const relabelled = goldenLayouts(directory as string, name).map(({ inputIds, inputStart, segments }) => {
      const texts = segments.filter(({ kind }) => kind === "text").map(({ start, end }) => [start, end] as const);
      const chunks = texts.slice(0, -1).map((range) => Array.from(inputIds.subarray(...range)));
      return buildLayout({ chunks, input: Array.from(inputIds.subarray(inputStart)), labels }, goldenMode(name));
    });
    expect([...padLayouts(relabelled).labels]).toEqual(goldenNumbers(golden, `${name}.labels_input`));
  });

  const extras = [1, 4].flatMap((n) =>
    ["concat_recur", "merge_recur", "concat", "merge", "gist"].map((name) => [n, name] as const),
  );
  test.each(extras)("%i COMP tokens, %s", (compTokens, name) => {
    const samples = [
      { chunks: [[1, 20, 21, 22], [23], [24, 25, 26]], input: [27, 28, 29, 30] },
      {
        chunks: [
          [1, 31],
          [32, 33, 34],
        ],
        input: [35, 36],
      },
    ];
    const layouts = samples.map((sample) => buildLayout(sample, goldenMode(name, compTokens)));
    checkBatch(dense(padLayouts(layouts)), golden, `extra.ntok${compTokens}.${name}`);
  });
});
