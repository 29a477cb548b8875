/** @file The parallel layout against the position-by-position oracle on random samples, and its errors and speed. */

import { performance } from "node:perf_hooks";

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { attends } from "#precis/train/attention-mask.js";
import { mergeWeight } from "#precis/train/averaging.js";
import { poolSizes } from "#precis/train/pooling.js";
import { padLayouts } from "#precis/train/padded-batch.js";
import { buildLayout, IGNORED_LABEL } from "#precis/train/parallel-layout.js";
import { compTokenIds, sumTokenIds, type ParallelMode } from "#precis/train/parallel-mode.js";
import { compPositions } from "#precis/train/positions.js";
import {
  firstSum,
  oracleAttends,
  oracleAverage,
  oraclePosition,
  oracleTokens,
  type OracleMode,
  type OracleRow,
} from "../reference/mask-oracle.js";
import { dense, type DenseBatch } from "../reference/dense-batch.js";

const IDS = { vocabSize: 20, padId: 0, bosId: 1 };

// Ids 0 (pad) and 1 (BOS) are frequent on purpose: a pad is a place and not an id, and a BOS can be anywhere.
const token = fc.oneof({ weight: 1, arbitrary: fc.constantFrom(0, 1) }, { weight: 4, arbitrary: fc.nat(19) });
const sample = fc.record({
  chunks: fc.array(fc.array(token, { minLength: 1, maxLength: 6 }), { maxLength: 5 }),
  input: fc.array(token, { maxLength: 7 }),
});
const mode = fc.record({
  method: fc.constantFrom("concat", "merge", "gist", "compressive", "full", "none"),
  recursive: fc.boolean(),
  compTokens: fc.integer({ min: 1, max: 4 }),
  sink: fc.boolean(),
  decay: fc.option(fc.constantFrom(0.5, 0.1, 0.9, 1), { nil: undefined }),
});

function checkRow(batch: DenseBatch, b: number, row: OracleRow, oracle: OracleMode): void {
  const { seq } = batch;
  for (let i = 0; i < seq; i++) {
    expect(batch.positionIds[b * seq + i]).toBe(oraclePosition(row, i, oracle));
    expect(batch.gate[b * seq + i]).toBe(row.real[i] && row.ids[i] >= IDS.vocabSize ? 1 : 0);
    const isSum = row.real[i] && row.ids[i] >= firstSum(oracle);
    expect(batch.sumMask[b * seq + i]).toBe(isSum ? 1 : 0);
    for (let j = 0; j < seq; j++) {
      const at = (b * seq + i) * seq + j;
      const expected = oracleAttends(row, i, j, oracle);
      if ((batch.attend[at] === 1) !== expected) expect.fail(`attend ${i} → ${j} is ${batch.attend[at]}`);
      const weight = oracleAverage(row, i, j, oracle);
      if (Math.abs((batch.averaging?.[at] ?? 0) - weight) > 1e-6) expect.fail(`average ${i} ← ${j} is not ${weight}`);
    }
  }
}

describe("parallel layout", () => {
  test("equals the oracle for every mode and padding", () => {
    const options = fc.record({ side: fc.constantFrom("left", "right"), extra: fc.nat(3) });
    fc.assert(
      fc.property(fc.array(sample, { minLength: 1, maxLength: 3 }), mode, options, (drawnSamples, drawn, pad) => {
        const oracle: OracleMode = { ...drawn, ...IDS };
        // A step of sinks only has nothing to pool, so that ids alone would not tell where it ends.
        const samples = drawnSamples.map(({ chunks, input }) => ({
          chunks: chunks.map((chunk) => (chunk.every((id) => id === IDS.bosId) ? [...chunk, 3] : chunk)),
          input,
        }));
        const layouts = samples.map((one) => buildLayout(one, oracle as ParallelMode));
        const tokens = samples.map(({ chunks, input }) => oracleTokens(chunks, input, oracle));
        const length = Math.max(...tokens.map((ids) => ids.length)) + pad.extra;
        const batch = dense(padLayouts(layouts, { side: pad.side, length }));
        expect([batch.batch, batch.seq]).toEqual([samples.length, length]);
        tokens.forEach((ids, b) => {
          expect([...layouts[b].inputIds]).toEqual(ids);
          const pads = Array.from({ length: length - ids.length }, () => IDS.padId);
          const left = pad.side === "left";
          const row = {
            ids: left ? [...pads, ...ids] : [...ids, ...pads],
            real: Array.from({ length }, (_, i) => (left ? i >= pads.length : i < ids.length)),
          };
          expect([...batch.inputIds.subarray(b * length, (b + 1) * length)]).toEqual(row.ids);
          expect([...batch.attentionMask.subarray(b * length, (b + 1) * length)].map(Boolean)).toEqual(row.real);
          checkRow(batch, b, row, oracle);
        });
      }),
      { numRuns: 400 },
    );
  });

  test("the predicate and the dense mask are the same", () => {
    fc.assert(
      fc.property(sample, mode, (one, drawn) => {
        const layout = buildLayout(one, { ...drawn, ...IDS } as ParallelMode);
        const { attend, seq } = dense(padLayouts([layout]));
        for (let i = 0; i < seq; i++) {
          for (let j = 0; j < seq; j++) expect(attends(layout, i, j)).toBe(attend[i * seq + j] === 1);
        }
      }),
    );
  });

  test("every real row attends to itself, so no softmax is empty", () => {
    fc.assert(
      fc.property(sample, mode, (one, drawn) => {
        const { attend, seq } = dense(padLayouts([buildLayout(one, { ...drawn, ...IDS } as ParallelMode)]));
        for (let i = 0; i < seq; i++) expect(attend[i * seq + i]).toBe(1);
      }),
    );
  });

  test("labels are the chosen tokens of the input", () => {
    const concat: ParallelMode = { method: "concat", recursive: true, compTokens: 1, sink: false, ...IDS };
    const chunks = [[1, 2]];
    const labelled = buildLayout({ chunks, input: [5, 6, 7, 8], labels: { start: 1, end: 3 } }, concat);
    const rest = Array.from({ length: 4 }, () => IGNORED_LABEL);
    expect([...labelled.labels]).toEqual([...rest, 6, 7, IGNORED_LABEL]);
    expect(labelled.inputStart).toBe(3);
    const padded = padLayouts([buildLayout({ chunks, input: [5, 6], labels: { start: 1 } }, concat)], { length: 6 });
    expect([...padded.labels]).toEqual([...rest, IGNORED_LABEL, 6]);
  });

  test("ids and positions of the new tokens", () => {
    const merge: ParallelMode = { method: "merge", recursive: true, compTokens: 2, sink: false, ...IDS };
    expect([compTokenIds(merge), sumTokenIds(merge)]).toEqual([
      [20, 21],
      [22, 23],
    ]);
    const compressive: ParallelMode = { method: "compressive", recursive: true, compTokens: 2, sink: false, ...IDS };
    expect([compTokenIds(compressive), sumTokenIds(compressive)]).toEqual([[], [20, 21]]);
    expect(sumTokenIds({ method: "gist", compTokens: 2, sink: false, ...IDS })).toEqual([]);
    expect(compTokenIds({ method: "full", ...IDS })).toEqual([]);
    expect(compPositions(7, 3)).toEqual([7, 8, 9]);
  });

  test("a long sequence is laid out fast", () => {
    const merge: ParallelMode = { method: "merge", recursive: true, compTokens: 4, sink: true, ...IDS };
    const chunks = Array.from({ length: 32 }, () => Array.from({ length: 50 }, () => 3));
    const started = performance.now();
    const { seq } = padLayouts([buildLayout({ chunks, input: [4, 5] }, merge)]);
    expect(seq).toBe(32 * 58 + 2);
    // About 20 ms here; the bound only excludes a test per element through closures.
    expect(performance.now() - started).toBeLessThan(500);
  });
});

describe("merge weights", () => {
  /** Weights of the time steps in the memory after the last of them, as a batch has them. */
  function stepWeights(steps: number, decay?: number): number[] {
    const merge: ParallelMode = { method: "merge", recursive: true, compTokens: 1, sink: false, decay, ...IDS };
    const layout = buildLayout({ chunks: Array.from({ length: steps }, () => [3]), input: [] }, merge);
    const { averaging = new Float32Array(0), seq } = dense(padLayouts([layout]));
    // A step is its token, COMP and SUM.
    return Array.from({ length: steps }, (_, i) => averaging[(seq - 1) * seq + 3 * i + 1]);
  }

  test("the mean is 1/t, and the moving average a(1-a)^(t-i)", () => {
    expect(stepWeights(4)).toEqual([0.25, 0.25, 0.25, 0.25]);
    expect(stepWeights(3, 0.5)).toEqual([0.25, 0.25, 0.5]);
    expect([1, 2, 5].map((step) => mergeWeight(step))).toEqual([1, 0.5, 0.2]);
    expect([1, 2, 5].map((step) => mergeWeight(step, 0.3))).toEqual([1, 0.3, 0.3]);
  });

  test("they are what the online update gives, and sum to 1", () => {
    const decay = fc.option(fc.double({ min: 0.01, max: 1, noNaN: true }), { nil: undefined });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 30 }), decay, (steps, a) => {
        const online = new Float64Array(steps);
        for (let t = 1; t <= steps; t++) {
          for (let i = 0; i < t; i++) online[i] *= 1 - mergeWeight(t, a);
          online[t - 1] = mergeWeight(t, a);
        }
        const weights = stepWeights(steps, a);
        for (let i = 0; i < steps; i++) expect(weights[i]).toBeCloseTo(online[i], 6);
        expect(weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 5);
      }),
    );
  });
});

describe("pooling", () => {
  test("a step falls into runs of nearly equal length, or stays whole where it is short", () => {
    expect(poolSizes(12, 3)).toEqual([4, 4, 4]);
    expect(poolSizes(7, 3)).toEqual([2, 2, 3]);
    expect(poolSizes(2, 8)).toEqual([1, 1]);
    expect(poolSizes(0, 4)).toEqual([]);
  });

  test("a step of sinks only is read but leaves no slot", () => {
    const sinks: ParallelMode = { method: "compressive", recursive: true, compTokens: 2, sink: true, ...IDS };
    const { segments } = buildLayout({ chunks: [[1], [3, 4, 5]], input: [6] }, sinks);
    expect(segments.map(({ kind, start, end }) => [kind, end - start])).toEqual([
      ["text", 1],
      ["text", 3],
      ["sum", 2],
      ["text", 1],
    ]);
  });
});

describe("bad input", () => {
  const good: ParallelMode = { method: "merge", recursive: true, compTokens: 2, sink: false, ...IDS };
  const input = [3];

  test.each([
    [{ chunks: [[1], []], input }, good, "INPUT_INVALID"],
    [{ chunks: [[20]], input }, good, "INPUT_INVALID"],
    [{ chunks: [[1.5]], input }, good, "INPUT_INVALID"],
    [{ chunks: [], input, labels: { start: 0, end: 2 } }, good, "INPUT_INVALID"],
    [{ chunks: [], input, labels: { start: -1 } }, good, "INPUT_INVALID"],
    [{ chunks: [], input }, { ...good, compTokens: 0 }, "OPTION_INVALID"],
    [{ chunks: [], input }, { ...good, method: "compressive" as const, compTokens: 0 }, "OPTION_INVALID"],
    [{ chunks: [], input }, { ...good, decay: 0 }, "OPTION_INVALID"],
    [{ chunks: [], input }, { ...good, decay: 1.1 }, "OPTION_INVALID"],
  ])("%j is refused", (one, badMode, code) => {
    expect(() => buildLayout(one, badMode)).toThrow(expect.objectContaining({ code }));
  });
});
