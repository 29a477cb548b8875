/** @file Blocks of plain text: sentinel spans against the oracle, local and scattered attention, and drawing of spans. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { SeededRandom } from "#precis/data/random.js";
import { drawSpans, wrappedShare } from "#precis/sentinel/draw-spans.js";
import { sentinelIds, type Span } from "#precis/sentinel/sentinel-tokens.js";
import { attends } from "#precis/train/attention-mask.js";
import { padLayouts, placeLayouts } from "#precis/train/padded-batch.js";
import { layoutSpans, layoutText, type TextMode } from "#precis/train/text-layout.js";
import { batchLabels } from "#precis/train/training-batch.js";
import { sentinelAttends, sentinelLabels, sentinelPosition } from "../reference/sentinel-oracle.js";
import { dense } from "../reference/dense-batch.js";

const IDS = { vocabSize: 50, padId: 0, bosId: 1 };
const { open, close } = sentinelIds(IDS.vocabSize);
const SENTINEL: TextMode = { ...IDS, method: "sentinel", blockTokens: 1000, ratios: [0.5, 0.5], longest: 25 };

/** Stretches of text that are inside a span or not; none nests, and spans may touch each other. */
const stretches = fc.array(
  fc.record({ wrapped: fc.boolean(), ids: fc.array(fc.nat(IDS.vocabSize - 1), { minLength: 1, maxLength: 6 }) }),
  { minLength: 1, maxLength: 8 },
);

interface Marked {
  ids: number[];
  spans: Span[];
  /** With the sentinels in place. */
  marked: number[];
}

function mark(drawn: readonly { wrapped: boolean; ids: number[] }[]): Marked {
  const [ids, spans, marked]: [number[], Span[], number[]] = [[], [], []];
  for (const { wrapped, ids: part } of drawn) {
    if (wrapped) spans.push({ start: ids.length, end: ids.length + part.length });
    ids.push(...part);
    marked.push(...(wrapped ? [open, ...part, close] : part));
  }
  return { ids, spans, marked };
}

describe("text with sentinel spans", () => {
  test("equals the oracle: ids, mask, positions, labels, gate", () => {
    fc.assert(
      fc.property(stretches, fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }), (drawn, limit) => {
        const { ids, spans, marked } = mark(drawn);
        const layout = layoutSpans(ids, spans, { ...SENTINEL, blockTokens: limit ?? 1000 });
        // A block that ends in a span leaves it open; a `<CL>` with nothing after it is left out.
        const cut = marked.slice(0, limit ?? marked.length);
        const wanted = cut.at(-1) === open ? cut.slice(0, -1) : cut;
        expect([...layout.inputIds]).toEqual(wanted);
        const row = { ids: wanted, vocabSize: IDS.vocabSize };
        const batch = dense(padLayouts([layout]));
        const { attend, positionIds, gate, seq } = batch;
        expect([...gate]).toEqual(wanted.map(() => 1));
        for (let i = 0; i < seq; i++) {
          expect(positionIds[i]).toBe(sentinelPosition(row, i));
          for (let j = 0; j < seq; j++) {
            const expected = sentinelAttends(row, i, j);
            if ((attend[i * seq + j] === 1) !== expected) expect.fail(`attend ${i} → ${j} is ${!expected}`);
            if (attends(layout, i, j) !== expected) expect.fail(`attends(${i}, ${j}) is ${!expected}`);
          }
        }
        const labels = batchLabels(padLayouts([layout]));
        expect(labels.rows.map((at, index) => [at, labels.ids[index]])).toEqual(sentinelLabels(row));
      }),
      { numRuns: 300 },
    );
  });

  test("several blocks in one row keep to themselves, labels included", () => {
    fc.assert(
      fc.property(stretches, stretches, (first, second) => {
        const blocks = [mark(first), mark(second)];
        const layouts = blocks.map(({ ids, spans }) => layoutSpans(ids, spans, SENTINEL));
        const seq = layouts[0].seq + layouts[1].seq + 3;
        const offsets = [0, layouts[0].seq];
        const batch = placeLayouts([layouts.map((layout, index) => ({ layout, start: offsets[index] }))], seq);
        const wanted = blocks.flatMap(({ marked }, index) =>
          sentinelLabels({ ids: marked, vocabSize: IDS.vocabSize }).map(([at, id]) => [at + offsets[index], id]),
        );
        const labels = batchLabels(batch);
        expect(labels.rows.map((at, index) => [at, labels.ids[index]])).toEqual(wanted);
        const { attend } = dense(batch);
        for (let i = 0; i < seq; i++) {
          for (let j = 0; j < seq; j++) {
            const block = i >= layouts[0].seq ? 1 : 0;
            const [row, column] = [i - offsets[block], j - offsets[block]];
            const inside = row < layouts[block].seq && column >= 0 && column < layouts[block].seq;
            const ids = { ids: blocks[block].marked, vocabSize: IDS.vocabSize };
            expect(attend[i * seq + j] === 1).toBe(inside && sentinelAttends(ids, row, column));
          }
        }
      }),
      { numRuns: 50 },
    );
  });

  test.each([
    ["empty", [{ start: 2, end: 2 }]],
    [
      "overlapping",
      [
        { start: 0, end: 3 },
        { start: 2, end: 4 },
      ],
    ],
    ["beyond the text", [{ start: 3, end: 6 }]],
  ])("refuses spans that are %s", (_, spans) => {
    expect(() => layoutSpans([2, 3, 4, 5], spans, SENTINEL)).toThrowError(
      expect.objectContaining({ code: "INPUT_INVALID" }) as Error,
    );
  });
});

describe("random spans", () => {
  test("cover the corrected share of the words, apart, within their lengths", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 30, max: 300 }),
        fc.double({ min: 0.1, max: 0.9, noNaN: true }),
        fc.integer({ min: 3, max: 25 }),
        fc.nat(),
        (words, ratio, longest, seed) => {
          const spans = drawSpans(words, ratio, longest, new SeededRandom(seed));
          let end = 0;
          let inside = 0;
          for (const span of spans) {
            expect(span.start).toBeGreaterThanOrEqual(end);
            expect(span.end - span.start).toBeGreaterThanOrEqual(2);
            expect(span.end - span.start).toBeLessThanOrEqual(longest);
            inside += span.end - span.start;
            end = span.end;
          }
          expect(end).toBeLessThanOrEqual(words);
          const target = Math.floor(wrappedShare(ratio, longest) * words);
          expect(target - inside).toBeGreaterThanOrEqual(0);
          expect(target - inside).toBeLessThanOrEqual(1);
          expect(drawSpans(words, ratio, longest, new SeededRandom(seed))).toEqual(spans);
        },
      ),
    );
  });

  test("leave texts of fewer than 30 words alone", () => {
    expect(drawSpans(29, 0.9, 25, new SeededRandom(1))).toEqual([]);
    expect(drawSpans(30, 0.9, 25, new SeededRandom(1))).not.toEqual([]);
  });

  test("shrink a long text by about the ratio, <CR> counted", () => {
    const words = 5000;
    for (const ratio of [0.1, 0.3, 0.5, 0.7, 0.9]) {
      const spans = drawSpans(words, ratio, 25, new SeededRandom("long", ratio));
      const saved = spans.reduce((sum, { start, end }) => sum + end - start - 1, 0);
      expect(saved / words).toBeCloseTo(ratio, 1);
    }
  });

  test.each([
    [1, 25],
    [-0.1, 25],
    [0.5, 1],
  ])("refuse ratio %d with spans of %d words", (ratio, longest) => {
    expect(() => drawSpans(100, ratio, longest, new SeededRandom(1))).toThrowError(
      expect.objectContaining({ code: "OPTION_INVALID" }) as Error,
    );
  });
});

describe("a block of text", () => {
  const ids = Array.from({ length: 120 }, (_, i) => 2 + (i % 40));
  // Words of two tokens, after a first token that is no word's.
  const block = { key: "book/1@7", ids, wordStarts: ids.flatMap((_, i) => (i % 2 === 1 ? [i] : [])) };

  test("has spans of whole words, the first token outside, and is the same every time", () => {
    const layout = layoutText(block, SENTINEL);
    expect(layoutText(block, SENTINEL)).toMatchObject({ inputIds: layout.inputIds, positionIds: layout.positionIds });
    expect(layout.segments.filter(({ kind }) => kind === "close").length).toBeGreaterThan(1);
    for (const { kind, start, end } of layout.segments) {
      if (kind !== "span") continue;
      expect(layout.positionIds[start] % 2).toBe(1);
      expect((end - start) % 2).toBe(0);
    }
    expect(layoutText({ ...block, key: "book/1@8" }, SENTINEL).inputIds).not.toEqual(layout.inputIds);
  });

  test("is cut to the block length, sentinels included", () => {
    expect(layoutText(block, { ...SENTINEL, blockTokens: 64 }).seq).toBe(64);
  });

  test("under local attention a token sees the nearest share of its history", () => {
    const layout = layoutText(block, { ...IDS, method: "local", blockTokens: 120, ratios: [0.7, 0.7] });
    const { attend, seq } = dense(padLayouts([layout]));
    for (let i = 0; i < seq; i++) {
      for (let j = 0; j < seq; j++) {
        expect(attend[i * seq + j] === 1).toBe(j <= i && j >= Math.floor(0.7 * i));
        expect(attends(layout, i, j)).toBe(attend[i * seq + j] === 1);
      }
    }
  });

  test("under scattered attention all tokens see the same share of earlier ones, and themselves", () => {
    const layout = layoutText(block, { ...IDS, method: "scattered", blockTokens: 120, ratios: [0.6, 0.6] });
    const { attend, seq } = dense(padLayouts([layout]));
    const last = Array.from(attend.subarray((seq - 1) * seq, seq * seq));
    for (let i = 0; i < seq; i++) {
      for (let j = 0; j < seq; j++) {
        expect(attend[i * seq + j] === 1).toBe(i === j || (j < i && last[j] === 1 && j < seq - 1));
        expect(attends(layout, i, j)).toBe(attend[i * seq + j] === 1);
      }
    }
    const kept = last.reduce((sum, seen) => sum + seen, 0) / seq;
    expect(kept).toBeGreaterThan(0.25);
    expect(kept).toBeLessThan(0.55);
  });

  test("in all modes the same tokens are predicted, from the same ones", () => {
    for (const mode of [
      { ...IDS, method: "text", blockTokens: 120 },
      { ...IDS, method: "local", blockTokens: 120, ratios: [0.1, 0.9] },
      { ...IDS, method: "scattered", blockTokens: 120, ratios: [0.1, 0.9] },
      SENTINEL,
    ] as TextMode[]) {
      expect(batchLabels(padLayouts([layoutText(block, mode)])).ids).toEqual(ids.slice(1));
    }
  });
});
