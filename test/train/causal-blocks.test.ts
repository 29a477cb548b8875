/** @file Attention in causal blocks: the same losses and gradients as in one, since no mask lets a token see a later one. */

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { blockCount, causalBlocks, TOKENS_OF_BLOCK } from "#precis/train/causal-blocks.js";
import { layoutParameters } from "#precis/train/parameters.js";
import { unpackMask } from "#precis/train/packed-mask.js";
import { packLayouts } from "#precis/train/packing.js";
import { padLayouts, placeLayouts, type PaddedBatch } from "#precis/train/padded-batch.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";
import { promptSlots, segmentSamples, segmentWidth } from "#precis/train/segments.js";
import { layoutStream } from "#precis/train/stream-layout.js";
import { placeTeacher } from "#precis/train/teacher-batch.js";
import { layoutText, type TextMode } from "#precis/train/text-layout.js";
import type { DistilledBatch } from "#precis/train/training-batch.js";
import { buildTrainingGraph, type TrainingGraphSpec } from "#precis/train/training-graph.js";
import { textIds } from "../conformance/fixtures.js";
import { IDS, layoutOf, MODES, relativeError, specFor, tinyTraining, type TinyTraining } from "./tiny-training.js";

const ROWS = 2;
// Whole words of sixteen would fit 40 tokens only in part.
const SEQ = 40;
const modes = Object.entries(MODES);

describe("blocks of a row", () => {
  test("are one for short rows, and about as long as they should be for others", () => {
    expect(causalBlocks(1)).toEqual([{ start: 0, end: 1 }]);
    expect(causalBlocks(TOKENS_OF_BLOCK)).toHaveLength(1);
    expect(causalBlocks(3 * TOKENS_OF_BLOCK)).toHaveLength(3);
  });

  test("are fewer on a GPU, where each costs more", () => {
    const counts = (device: "cpu" | "webgpu"): number[] => [256, 512, 768, 1024].map((seq) => blockCount(seq, device));
    expect(counts("cpu")).toEqual([1, 2, 3, 4]);
    expect(counts("webgpu")).toEqual([1, 2, 2, 3]);
  });

  test("follow one another through the whole row, are even, and end at whole words of a mask", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.option(fc.integer({ min: 1, max: 9 })), (seq, count) => {
        const blocks = causalBlocks(seq, count ?? undefined);
        expect(blocks.map(({ start }) => start)).toEqual([0, ...blocks.slice(0, -1).map(({ end }) => end)]);
        expect(blocks.at(-1)?.end).toBe(seq);
        for (const { end } of blocks.slice(0, -1)) expect(end % 16).toBe(0);
        const lengths = blocks.map(({ start, end }) => end - start);
        expect(Math.min(...lengths)).toBeGreaterThan(0);
        if (count === null || blocks.length === count) {
          expect(Math.max(...lengths) - Math.min(...lengths)).toBeLessThanOrEqual(32);
        }
      }),
    );
  });
});

/** Pairs of a token and a later one of its row that it sees. */
function seenAhead({ attendBits, seq }: PaddedBatch): string[] {
  const mask = unpackMask(attendBits, seq);
  return [...mask].flatMap((sees, at) => {
    const [i, j] = [Math.floor(at / seq) % seq, at % seq];
    return sees === 1 && j > i ? [`${i} → ${j}`] : [];
  });
}

const lengths = fc.array(fc.integer({ min: 1, max: 8 }), { maxLength: 4 });
const words = fc.integer({ min: 1, max: 8 });

describe("no token sees a later one", () => {
  test.each(modes)("%s", (_name, mode) => {
    fc.assert(
      fc.property(
        lengths,
        words,
        words,
        fc.constantFrom("left" as const, "right" as const),
        (steps, ask, say, side) => {
          const chunks = steps.map((count, step) => [...(step === 0 ? [1] : []), ...textIds(count, step)]);
          const layouts = [chunks, []].map((context) =>
            layoutOf({ chunks: context, input: textIds(ask, 8), target: textIds(say, 9) }, mode),
          );
          expect(seenAhead(padLayouts(layouts, { side }))).toEqual([]);
        },
      ),
      { numRuns: 50 },
    );
  });

  test.each(["once", "gradual"] as const)("streams, released %s", (release) => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), words, words, fc.nat(2), (length, compress, memory, sink) => {
        const sizes = { window: sink + 8, compress, memory, sink, release, compTokens: 2 };
        const layout = layoutStream(textIds(length), { ...IDS, ...sizes, method: "streaming", blockTokens: 1000 });
        expect(seenAhead(padLayouts([layout]))).toEqual([]);
      }),
    );
  });

  test.each(["sentinel", "local", "scattered"])("text read with %s attention", (method) => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 50 }), fc.constantFrom("random", "recent"), (length, placement) => {
        const sizes = { blockTokens: 20, ratios: [0.2, 0.8], longest: 4, placement };
        const block = { key: "text", ids: textIds(length), wordStarts: Array.from({ length }, (_, at) => at) };
        expect(seenAhead(padLayouts([layoutText(block, { ...IDS, ...sizes, method } as TextMode)]))).toEqual([]);
      }),
    );
  });

  test.each([true, false])("segments of recurrent summaries, accumulated: %s", (accumulate) => {
    fc.assert(
      fc.property(lengths, words, (steps, say) => {
        const { vocabSize, padId } = IDS;
        const shape = { rows: 2, segmentLength: 12, compTokens: 2, accumulate, maxSteps: 4, vocabSize, padId };
        const text = (count: number): { ids: number[]; labels: number[] } => ({
          ids: textIds(count),
          labels: textIds(count),
        });
        const { segments } = segmentSamples([[...steps.map(text), text(say)], [text(say)]], shape);
        expect(segmentWidth(shape)).toBe(promptSlots(shape) + 14);
        for (const { tokens } of segments) expect(seenAhead(tokens)).toEqual([]);
      }),
    );
  });
});

/** Samples that share rows, with pads behind them. */
function batchFor(mode: ParallelMode): DistilledBatch {
  const layouts = [0, 1, 2].map((salt) =>
    layoutOf(
      {
        chunks: [[1, ...textIds(3 + salt, salt)], textIds(2, salt + 1)],
        input: textIds(2, salt + 2),
        target: textIds(4, salt + 3),
      },
      mode,
    ),
  );
  const { placed } = packLayouts(layouts, ROWS, SEQ);
  return { ...placeLayouts(placed, SEQ), teacher: placeTeacher(placed, SEQ) };
}

describe("training", () => {
  const models = [
    ["llama", { dtype: "float16" }],
    ["mistral with a head of keys each", { architecture: "mistral", kvHeads: 4, dtype: "float16" }],
  ] as const;
  let tiny: TinyTraining[];
  beforeAll(async () => {
    tiny = await Promise.all(models.map(([, options]) => tinyTraining(options)));
  });
  afterAll(async () => {
    for (const one of tiny) await one[Symbol.asyncDispose]();
  });

  async function inBlocks(model: number, spec: TrainingGraphSpec, batch: DistilledBatch, counts: readonly number[]) {
    const results = [];
    for (const blocks of counts) {
      const passes = await (tiny[model] as TinyTraining).passes({ ...spec, attentionBlocks: blocks });
      results.push(await passes.run(batch));
      await passes.dispose();
    }
    return results;
  }

  test.each(modes)(
    "%s: blocks change neither loss nor gradient, whether layers are kept or recomputed",
    async (_name, mode) => {
      const batch = batchFor(mode);
      const spec = specFor(mode, ROWS, SEQ);
      const [whole, two, three] = await inBlocks(0, spec, batch, [1, 2, 3]);
      const [again] = await inBlocks(0, { ...spec, recompute: true }, batch, [3]);
      for (const { loss, gradient } of [two, three, again]) {
        expect(loss).toBeCloseTo(whole.loss, 5);
        expect(relativeError(gradient, whole.gradient)).toBeLessThan(1e-5);
      }
    },
  );

  test.each(models.map(([name], model) => [name, model] as const))("%s: nor with a teacher", async (_name, model) => {
    const mode = MODES["merge, recursive"];
    const spec = { ...specFor(mode, ROWS, SEQ), distill: { weight: 0.5, temperature: 2 } };
    const [whole, three] = await inBlocks(model, spec, batchFor(mode), [1, 3]);
    expect(three.distillLoss).toBeCloseTo(whole.distillLoss, 5);
    expect(relativeError(three.gradient, whole.gradient)).toBeLessThan(1e-5);
  });

  test("with half floats they differ by the rounding of half floats", async () => {
    const mode = MODES["concat, recursive"];
    const spec = { ...specFor(mode, ROWS, SEQ), precision: "fp16" as const };
    const [whole, three] = await inBlocks(0, spec, batchFor(mode), [1, 3]);
    expect(three.loss).toBeCloseTo(whole.loss, 2);
    expect(relativeError(three.gradient, whole.gradient)).toBeLessThan(0.01);
  });

  test("a layer's products only meet the keys up to the end of a block", () => {
    const { config, weights } = (tiny[0] as TinyTraining).base;
    const spec = { ...specFor(MODES["concat, recursive"], ROWS, 3 * TOKENS_OF_BLOCK), labels: 8 };
    const squares = (blocks?: number): number =>
      buildTrainingGraph(config, weights(), layoutParameters(config, spec), {
        ...spec,
        ...(blocks && { attentionBlocks: blocks }),
      })
        .nodes.filter(({ opType }) => opType === "Softmax")
        .map(({ outputValues }) =>
          (outputValues[0]?.shape ?? [])
            .map(Number)
            .slice(-2)
            .reduce((a, b) => a * b, 1),
        )
        .filter((pairs) => pairs >= TOKENS_OF_BLOCK ** 2)
        .reduce((sum, pairs) => sum + pairs, 0);
    expect(squares() / squares(1)).toBeCloseTo(2 / 3);
  });
});
