/** @file Masks and averages that graphs compute from a few numbers per token, against the rules they stand for. */

import { tmpdir } from "node:os";

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { GraphBuilder, type Value } from "#precis/graph/builder.js";
import { EngineSession, floatTensor } from "#precis/runtime/engine-session.js";
import { attends, MASKED_BIAS } from "#precis/train/attention-mask.js";
import { AVERAGING_PARTS, denseAveraging, noAveraging, writeGroups } from "#precis/train/averaging-groups.js";
import type { TokenBlock } from "#precis/train/causal-blocks.js";
import {
  averagesFromGroups,
  biasOfMask,
  causalSampleBias,
  maskFromBits,
  withinWindow,
} from "#precis/train/mask-graph.js";
import { packAttend, packedWords, packMask, unpackMask } from "#precis/train/packed-mask.js";
import { buildLayout, type ParallelLayout } from "#precis/train/parallel-layout.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";
import { layoutText, type TextMode } from "#precis/train/text-layout.js";
import { oracleAverage, type OracleMode } from "../reference/mask-oracle.js";

const IDS = { vocabSize: 20, padId: 0, bosId: 1 };
const BATCH = 2;
// Not a multiple of sixteen.
const SEQ = 75;
const WHOLE = { start: 0, end: SEQ };
/** Blocks that whole words of the packed form end with, and blocks that they do not. */
const BLOCKS = [WHOLE, { start: 32, end: 64 }, { start: 64, end: SEQ }, { start: 0, end: 1 }, { start: 20, end: 41 }];
const blocks = BLOCKS.map((block) => [`${block.start} to ${block.end}`, block] as const);

/** Of squares [batch, seq, seq], the rows of a block and the columns up to its end. */
function partOf(squares: ArrayLike<number>, { start, end }: TokenBlock): number[] {
  return Array.from({ length: BATCH * (end - start) * end }, (_, at) => {
    const [row, column] = [Math.floor(at / end), at % end];
    const [b, i] = [Math.floor(row / (end - start)), start + (row % (end - start))];
    return squares[(b * SEQ + i) * SEQ + column];
  });
}

const token = fc.oneof(
  { weight: 1, arbitrary: fc.constant(1) },
  { weight: 4, arbitrary: fc.integer({ min: 2, max: 19 }) },
);
const sample = fc.record({
  chunks: fc.array(fc.array(token, { minLength: 1, maxLength: 6 }), { maxLength: 4 }),
  input: fc.array(token, { minLength: 1, maxLength: 5 }),
});
const mode = fc.record({
  method: fc.constantFrom("concat", "merge", "gist", "compressive", "full", "none"),
  recursive: fc.boolean(),
  compTokens: fc.integer({ min: 1, max: 3 }),
  sink: fc.boolean(),
  decay: fc.option(fc.constantFrom(0.5, 0.1, 0.9, 1), { nil: undefined }),
});
const textMode = fc.record({
  method: fc.constantFrom("sentinel", "local", "scattered"),
  blockTokens: fc.integer({ min: 3, max: 40 }),
  ratios: fc.constant([0.2, 0.8] as const),
  longest: fc.constant(4),
  placement: fc.constantFrom("random", "recent"),
});

/** A layout in one of two rows, somewhere. */
interface Placed {
  layout: ParallelLayout;
  row: number;
  start: number;
}

/** Layouts side by side in two rows, as far as there is room. */
function place(layouts: readonly ParallelLayout[]): Placed[] {
  const used = [0, 3];
  return layouts.flatMap((layout, index) => {
    const row = index % BATCH;
    const start = used[row];
    if (start + layout.seq > SEQ) return [];
    used[row] += layout.seq;
    return [{ layout, row, start }];
  });
}

const compressing = fc
  .tuple(fc.array(sample, { minLength: 1, maxLength: 5 }), mode)
  .map(([samples, drawn]) => place(samples.map((one) => buildLayout(one, { ...drawn, ...IDS } as ParallelMode))));
const onText = fc
  .tuple(fc.array(fc.array(token, { minLength: 2, maxLength: 40 }), { minLength: 1, maxLength: 4 }), textMode)
  .map(([texts, drawn]) =>
    place(
      texts.map((ids, index) => {
        const wordStarts = ids.flatMap((_, at) => (at % 2 === 0 ? [at] : []));
        return layoutText({ key: `t${index}`, ids, wordStarts }, { ...drawn, ...IDS } as TextMode);
      }),
    ),
  );

/** 1 where the rules of the layouts say that a token attends to another, [batch, seq, seq]. */
function expectedMask(placed: readonly Placed[]): Uint8Array {
  const mask = new Uint8Array(BATCH * SEQ * SEQ);
  for (const { layout, row, start } of placed)
    for (let i = 0; i < layout.seq; i++)
      for (let j = 0; j <= i; j++) if (attends(layout, i, j)) mask[(row * SEQ + start + i) * SEQ + start + j] = 1;
  return mask;
}

function packed(placed: readonly Placed[]): Float32Array {
  const words = packedWords(SEQ);
  const bits = new Float32Array(BATCH * SEQ * words);
  for (const { layout, row, start } of placed) packAttend(layout, bits, words, row * SEQ + start, start);
  return bits;
}

/** Runs `build` on inputs of these shapes. */
async function session(
  shapes: Record<string, number[]>,
  build: (graph: GraphBuilder, inputs: Record<string, Value>) => Value,
): Promise<{ run: (data: Record<string, Float32Array>) => Promise<Float32Array>; dispose: () => Promise<void> }> {
  const make = (): GraphBuilder => {
    const graph = new GraphBuilder("test", "primitive");
    const entries = Object.entries(shapes).map(([name, shape]) => [name, graph.input(name, "float32", shape)] as const);
    graph.output(build(graph, Object.fromEntries(entries)), "y");
    return graph;
  };
  const engine = await EngineSession.create(make, { weightsFolder: tmpdir(), device: "cpu", threads: 1 });
  return {
    async run(data) {
      const feeds = Object.entries(data).map(([name, values]) => [name, floatTensor(values, shapes[name])] as const);
      return (await engine.run(Object.fromEntries(feeds), ["y"]))["y"].data as Float32Array;
    },
    dispose: () => engine.dispose(),
  };
}

type Session = Awaited<ReturnType<typeof session>>;

describe("packed masks", () => {
  let unpack: Session;
  beforeAll(async () => {
    unpack = await session({ bits: [BATCH, SEQ, packedWords(SEQ)] }, (graph, { bits }) =>
      maskFromBits(graph, bits, WHOLE),
    );
  });
  afterAll(() => unpack.dispose());

  test.each([
    ["every compressing mode", compressing],
    ["sentinel, local and scattered attention", onText],
  ])("%s: the graph's mask is the one of the rules, bit for bit", async (_name, layouts) => {
    await fc.assert(
      fc.asyncProperty(layouts, async (placed) => {
        const expected = expectedMask(placed);
        const bits = packed(placed);
        expect(unpackMask(bits, SEQ)).toEqual(expected);
        expect(packMask(expected, BATCH * SEQ, SEQ)).toEqual(bits);
        expect(await unpack.run({ bits })).toEqual(Float32Array.from(expected));
      }),
      { numRuns: 60 },
    );
  });

  test.each(blocks)("the tokens %s and what they see are that part of the whole", async (_name, block) => {
    const part = await session({ bits: [BATCH, SEQ, packedWords(SEQ)] }, (graph, { bits }) =>
      maskFromBits(graph, bits, block),
    );
    await fc.assert(
      fc.asyncProperty(compressing, async (placed) => {
        expect([...(await part.run({ bits: packed(placed) }))]).toEqual(partOf(expectedMask(placed), block));
      }),
      { numRuns: 20 },
    );
    await part.dispose();
  });

  test("any mask of any length survives packing", async () => {
    await fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), fc.nat(), (seq, seed) => {
        const mask = Uint8Array.from({ length: 3 * seq }, (_, at) => ((seed >> (at % 29)) ^ at) & 1);
        expect(unpackMask(packMask(mask, 3, seq), seq)).toEqual(mask);
      }),
    );
  });

  test("the bias of a mask is 0 where it is 1, and far below any score where it is 0", async () => {
    const bias = await session({ mask: [1, 4] }, (graph, { mask }) => biasOfMask(graph, mask));
    expect([...(await bias.run({ mask: Float32Array.of(1, 0, 0, 1) }))].map(Math.abs)).toEqual([
      0,
      -MASKED_BIAS,
      -MASKED_BIAS,
      0,
    ]);
    await bias.dispose();
  });
});

test("averages are those of the online update and of pooling, in JavaScript and in the graph", async () => {
  const groupsShape = [AVERAGING_PARTS.length, BATCH, SEQ];
  const average = await session({ groups: groupsShape }, (graph, { groups }) => averagesFromGroups(graph, groups));
  await fc.assert(
    fc.asyncProperty(fc.array(sample, { minLength: 1, maxLength: 5 }), mode, async (drawnSamples, drawn) => {
      const samples = drawnSamples.map(({ chunks, input }) => ({
        // A step of sinks only has nothing to pool, so that ids alone would not tell where it ends.
        chunks: chunks.map((chunk) => (chunk.every((id) => id === IDS.bosId) ? [...chunk, 3] : chunk)),
        input,
      }));
      const placed = place(samples.map((one) => buildLayout(one, { ...drawn, ...IDS } as ParallelMode)));
      const groups = noAveraging(BATCH * SEQ);
      for (const { layout, row, start } of placed) writeGroups(layout, groups, row * SEQ, start);
      const expected = new Float32Array(BATCH * SEQ * SEQ);
      const averaged = new Set<number>();
      for (const { layout, row, start } of placed) {
        const oracleRow = { ids: [...layout.inputIds], real: Array.from({ length: layout.seq }, () => true) };
        for (let i = 0; i < layout.seq; i++) {
          if (layout.sumMask[i] === 1) averaged.add(row * SEQ + start + i);
          for (let j = 0; j <= i; j++) {
            const weight = oracleAverage(oracleRow, i, j, { ...drawn, ...IDS } as OracleMode);
            expected[(row * SEQ + start + i) * SEQ + start + j] = weight;
          }
        }
      }
      const dense = denseAveraging(groups, SEQ);
      expected.forEach((weight, at) => {
        if (Math.abs(dense[at] - weight) > 1e-6) expect.fail(`${at}: ${dense[at]}, not ${weight}`);
      });
      const flat = new Float32Array(AVERAGING_PARTS.length * BATCH * SEQ);
      AVERAGING_PARTS.forEach((part, index) => flat.set(groups[part], index * BATCH * SEQ));
      const computed = await average.run({ groups: flat });
      expected.forEach((weight, at) => {
        const own = !averaged.has(Math.floor(at / SEQ)) && Math.floor(at / SEQ) % SEQ === at % SEQ ? 1 : 0;
        if (Math.abs(computed[at] - weight - own) > 1e-6) expect.fail(`${at}: ${computed[at]}, not ${weight + own}`);
      });
    }),
    { numRuns: 60 },
  );
  await average.dispose();
});

test.each(blocks)("a window hides what is too far back, but not what is free of it: %s", async (_name, block) => {
  const rows = block.end - block.start;
  const shapes = { mask: [BATCH, rows, block.end], positions: [BATCH, SEQ], bound: [BATCH, SEQ] };
  const graph = await session(shapes, (g, { mask, positions, bound }) =>
    withinWindow(g, mask, block, { positions, bound, window: 4 }),
  );
  const numbers = fc.array(fc.nat(12), { minLength: BATCH * SEQ, maxLength: BATCH * SEQ });
  await fc.assert(
    fc.asyncProperty(numbers, fc.nat(), async (drawn, seed) => {
      const positions = Float32Array.from(drawn);
      const bound = positions.map((_, j) => ((seed >> (j % 23)) + j) % 2);
      const mask = Float32Array.from({ length: BATCH * SEQ * SEQ }, (_, at) => ((seed >> (at % 19)) + at) % 2);
      const expected = mask.map((visible, at) => {
        const [i, j] = [Math.floor(at / SEQ), SEQ * Math.floor(at / SEQ / SEQ) + (at % SEQ)];
        return bound[j] === 1 && positions[i] - positions[j] >= 4 ? 0 : visible;
      });
      const seen = await graph.run({ mask: Float32Array.from(partOf(mask, block)), positions, bound });
      expect([...seen]).toEqual(partOf(expected, block));
    }),
    { numRuns: 20 },
  );
  await graph.dispose();
});

test.each(blocks.flatMap(([name, block]) => [undefined, 3].map((window) => [name, window, block] as const)))(
  "plain causal attention within samples: %s, window %s",
  async (_name, window, block) => {
    const graph = await session({ samples: [BATCH, SEQ] }, (g, { samples }) =>
      causalSampleBias(g, samples, block, window),
    );
    const samples = Float32Array.from({ length: BATCH * SEQ }, (_, at) => Math.floor((at % SEQ) / 9) - 1);
    const expected = Array.from({ length: BATCH * SEQ * SEQ }, (_, at) => {
      const [b, i, j] = [Math.floor(at / SEQ / SEQ), Math.floor(at / SEQ) % SEQ, at % SEQ];
      const visible = j <= i && i - j < (window ?? Infinity) && samples[b * SEQ + i] === samples[b * SEQ + j];
      return visible ? 0 : MASKED_BIAS;
    });
    // A bias of −0 is one of 0.
    expect(Array.from(await graph.run({ samples }), (bias) => bias + 0)).toEqual(partOf(expected, block));
    await graph.dispose();
  },
);
