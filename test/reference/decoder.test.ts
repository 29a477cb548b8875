/** @file The reference decoder against transformers and the authors' CCM code, and the parallel pass against steps. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { performance } from "node:perf_hooks";

import { fc } from "../property.js";
import { afterAll, describe, expect, test } from "vitest";

import { padLayouts } from "#precis/train/padded-batch.js";
import { buildLayout } from "#precis/train/parallel-layout.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";
import { GOLDEN_MODES, goldenLayouts, goldenMode } from "../golden/ccm.js";
import { goldenDirectory, goldenFloats, goldenNumbers, readGolden } from "../golden/golden.js";
import { decode, readDecoderModel, type DecodeInput } from "./decoder.js";
import type { OracleMode } from "./mask-oracle.js";
import { sliceRows } from "./kernels.js";
import { runOnline } from "./online.js";
import { convertGoldenAdapter, writeRandomAdapter, writeRandomModel } from "./random-model.js";
import { dense } from "./dense-batch.js";

const TOLERANCE = 1e-4;
const scratch = mkdtempSync(join(tmpdir(), "precis-decoder-"));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Largest absolute difference; infinite when the lengths differ, NaN when an element is. */
function difference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const here = Math.abs(a[i] - b[i]);
    if (!(here <= largest)) largest = here;
  }
  return largest;
}

describe.skipIf(goldenDirectory("hf") === undefined)("reference decoder, transformers", () => {
  test.each(["llama", "llama3rope", "mistral", "qwen2", "qwen3", "phi3"])("%s", (family) => {
    const directory = goldenDirectory(`hf/${family}`) as string;
    const model = readDecoderModel(directory);
    const golden = readGolden(join(directory, "golden.safetensors"));
    const ids = goldenNumbers(golden, "input_ids");
    const logits = goldenFloats(golden, "logits");
    for (const b of [0, 1]) {
      const output = decode(model, { inputIds: ids.slice(b * 48, (b + 1) * 48) });
      expect(
        difference(output.logits, logits.subarray((b * logits.length) / 2, ((b + 1) * logits.length) / 2)),
      ).toBeLessThan(TOLERANCE);
      output.cache.forEach((layer, l) => {
        const [, heads, rows, size] = golden.get(`key.${l}`)!.shape;
        for (const name of ["key", "value"] as const) {
          const expected = goldenFloats(golden, `${name}.${l}`);
          const half = expected.length / 2;
          // A sliding-window cache keeps the last rows only.
          const actual = sliceRows(layer[`${name}s`], heads, size, 48 - rows);
          expect(difference(actual, expected.subarray(b * half, (b + 1) * half))).toBeLessThan(TOLERANCE);
        }
      });
    }
  });
});

const ccm = goldenDirectory("ccm");

describe.skipIf(ccm === undefined)("reference decoder, golden CCM", () => {
  const golden = ccm === undefined ? new Map() : readGolden(join(ccm, "golden.safetensors"));

  test.each(GOLDEN_MODES)("%s, in parallel", (name) => {
    const model = readDecoderModel(ccm as string);
    const adapter = convertGoldenAdapter(join(scratch, "golden"));
    const layouts = goldenLayouts(ccm as string, name);
    const batch = dense(padLayouts(layouts));
    const { seq } = batch;
    const rows = (data: ArrayLike<number>, b: number, width: number): number[] =>
      Array.prototype.slice.call(data, b * seq * width, (b + 1) * seq * width) as number[];
    layouts.forEach((layout, b) => {
      const output = decode(model, {
        inputIds: rows(batch.inputIds, b, 1),
        positionIds: rows(batch.positionIds, b, 1),
        attend: rows(batch.attend, b, seq),
        gate: rows(batch.gate, b, 1),
        averaging: batch.averaging && rows(batch.averaging, b, seq),
        adapter,
      });
      // Outputs of pads have no meaning, nor have those of SUM, whose embeddings the adapter folder leaves out.
      const real = Array.from({ length: seq }, (_, i) => i).filter(
        (i) => batch.attentionMask[b * seq + i] === 1 && batch.sumMask[b * seq + i] === 0,
      );
      expect(real.length).toBe(layout.seq - layout.sumMask.reduce((sum, one) => sum + one, 0));
      const compare = (actual: Float64Array, expected: ArrayLike<number>, width: number): void => {
        for (const i of real) {
          const range = [i * width, (i + 1) * width] as const;
          const row = Array.prototype.slice.call(expected, ...range) as number[];
          expect(difference(actual.subarray(...range), row)).toBeLessThan(TOLERANCE);
        }
      };
      compare(output.logits, rows(goldenFloats(golden, `${name}.logits`), b, 256), 256);
      if (!golden.has(`${name}.hidden`)) return;
      const hidden = goldenFloats(golden, `${name}.hidden`);
      output.hidden.forEach((states, l) => compare(states, rows(hidden, l * 2 + b, 64), 64));
    });
  });

  test.each(["concat_recur", "merge_recur"])("%s, keys and values in parallel", (name) => {
    const model = readDecoderModel(ccm as string);
    const adapter = convertGoldenAdapter(join(scratch, "golden"));
    const [layout] = goldenLayouts(ccm as string, name);
    const { attend, averaging, seq } = dense(padLayouts([layout]));
    const { inputIds, positionIds } = layout;
    const { cache } = decode(model, { inputIds, positionIds, attend, averaging, adapter });
    const kv = goldenFloats(golden, `${name}.kv`); // [L, 2, B, heads, seq, headDim]
    const size = 4 * seq * 16;
    cache.forEach(({ keys, values }, l) => {
      expect(difference(keys, kv.subarray(l * 4 * size, (l * 4 + 1) * size))).toBeLessThan(TOLERANCE);
      expect(difference(values, kv.subarray((l * 4 + 2) * size, (l * 4 + 3) * size))).toBeLessThan(TOLERANCE);
    });
  });

  test.each(GOLDEN_MODES)("%s, step by step", (name) => {
    const model = readDecoderModel(ccm as string);
    const adapter = convertGoldenAdapter(join(scratch, "golden"));
    const { segments } = JSON.parse(readFileSync(join(ccm as string, "tokens.json"), "utf8")) as {
      segments: Record<string, { chunks: number[][] }[]>;
    };
    goldenLayouts(ccm as string, name).forEach((layout, b) => {
      const input = Array.from(layout.inputIds.subarray(layout.inputStart));
      const { chunks } = segments["concat_recur"][b];
      const run = runOnline(model, adapter, { chunks, input }, goldenMode(name) as OracleMode);
      const prefix = `${name}.online.seq${b}`;
      expect(difference(run.logits, goldenFloats(golden, `${prefix}.input_logits`))).toBeLessThan(TOLERANCE);
      if (name === "full" || name === "nocontext") return;
      run.memories.forEach((memory, t) => {
        const flat = memory.flatMap(({ keys, values }) => [...keys, ...values]);
        expect(difference(flat, goldenFloats(golden, `${prefix}.step${t}.memory`))).toBeLessThan(TOLERANCE);
      });
    });
  });
});

describe("parallel pass equals step by step, in float64", () => {
  const model = writeRandomModel(join(scratch, "random"), { layers: 2, hiddenSize: 32, seed: 5 });
  const vocabSize = model.options.vocabSize;
  const id = fc.integer({ min: 2, max: vocabSize - 1 });
  const sample = fc.record({
    chunks: fc.array(fc.array(id, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 4 }),
    input: fc.array(id, { minLength: 1, maxLength: 5 }),
  });
  const modes = fc.record({
    method: fc.constantFrom("concat", "merge", "gist", "full", "none"),
    recursive: fc.boolean(),
    compTokens: fc.integer({ min: 1, max: 3 }),
    sink: fc.boolean(),
    decay: fc.option(fc.constant(0.5), { nil: undefined }),
  });

  test("for every mode, COMP count, sink and merge rule", () => {
    fc.assert(
      fc.property(sample, modes, ({ chunks, input }, drawn) => {
        const mode = { ...drawn, vocabSize, padId: 0, bosId: 1 };
        const adapter = writeRandomAdapter(join(scratch, "adapter"), { ...model.options, compTokens: mode.compTokens });
        const withBos = [[1, ...chunks[0]], ...chunks.slice(1)];
        const layout = buildLayout({ chunks: withBos, input }, mode as ParallelMode);
        const { attend, averaging } = dense(padLayouts([layout]));
        const pass: DecodeInput = {
          inputIds: layout.inputIds,
          positionIds: layout.positionIds,
          attend,
          averaging,
          adapter,
        };
        const parallel = decode(model, pass).logits.subarray(layout.inputStart * vocabSize);
        const steps = runOnline(model, adapter, { chunks: withBos, input }, mode).logits;
        // The averaging matrix is float32; all else is float64.
        expect(difference(parallel, steps)).toBeLessThan(1e-5);
      }),
      { numRuns: 60 },
    );
  });

  test("50 tokens through 3 layers of 64 take less than 200 ms", () => {
    const larger = writeRandomModel(join(scratch, "larger"));
    const inputIds = Array.from({ length: 50 }, (_, i) => i + 1);
    const times = Array.from({ length: 4 }, () => {
      const started = performance.now();
      decode(larger, { inputIds });
      return performance.now() - started;
    });
    expect(Math.min(...times)).toBeLessThan(200);
  });
});
