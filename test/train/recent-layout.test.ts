/** @file Text all in spans, whose tokens stay visible while they are recent, against the oracle. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { recentSpanWords, type Leaving } from "#precis/sentinel/recent-rules.js";
import { sentinelIds } from "#precis/sentinel/sentinel-tokens.js";
import { attends } from "#precis/train/attention-mask.js";
import { padLayouts, placeLayouts } from "#precis/train/padded-batch.js";
import { layoutText, type TextBlock, type TextMode } from "#precis/train/text-layout.js";
import { batchLabels } from "#precis/train/training-batch.js";
import { dense } from "../reference/dense-batch.js";
import { markRecent, recentAttends, sentinelLabels, sentinelPosition } from "../reference/sentinel-oracle.js";

const IDS = { vocabSize: 50, padId: 0, bosId: 1 };
const { open } = sentinelIds(IDS.vocabSize);

/** A text with a ratio, and what the oracle says of it. */
interface Drawn {
  block: TextBlock;
  mode: TextMode;
  ratio: number;
  leaving: Leaving;
  marked: number[];
}

const attendsIn = ({ marked, ratio, leaving }: Drawn, i: number, j: number): boolean =>
  recentAttends({ ids: marked, vocabSize: IDS.vocabSize }, i, j, ratio, leaving === "spanwise");

const texts: fc.Arbitrary<Drawn> = fc
  .record({
    // Now and then a word that is longer than a span may be.
    tokens: fc.array(
      fc.record({ id: fc.nat(IDS.vocabSize - 1), begins: fc.integer({ min: 0, max: 9 }).map((draw) => draw > 2) }),
      { minLength: 1, maxLength: 70 },
    ),
    quiet: fc.nat(25),
    leaving: fc.constantFrom<Leaving>("recent", "spanwise"),
    ratio: fc.double({ min: 0, max: 0.95, noNaN: true }),
    longest: fc.integer({ min: 2, max: 6 }),
    limit: fc.option(fc.integer({ min: 1, max: 60 }), { nil: Infinity }),
  })
  .map(({ tokens, quiet, leaving, ratio, longest, limit }) => {
    const ids = tokens.map(({ id }) => id);
    const begins = tokens.map((token, i) => token.begins && !(i > 5 && i < 5 + quiet));
    const words = Math.min(longest, recentSpanWords(leaving, ratio, longest));
    const whole = markRecent(ids, begins, words, IDS.vocabSize);
    const cut = whole.slice(0, limit);
    return {
      block: { key: `text ${ids.join(" ")}`, ids, wordStarts: begins.flatMap((begun, i) => (begun ? [i] : [])) },
      mode: { ...IDS, method: "sentinel", placement: leaving, blockTokens: limit, ratios: [ratio, ratio], longest },
      ratio,
      leaving,
      marked: cut.at(-1) === open ? cut.slice(0, -1) : cut,
    };
  });

describe("text in spans whose tokens leave one by one, or spanwise", () => {
  test("equals the oracle: ids, mask, positions, labels, gate", () => {
    fc.assert(
      fc.property(texts, (drawn) => {
        const { block, mode, marked } = drawn;
        const layout = layoutText(block, mode);
        expect([...layout.inputIds]).toEqual(marked);
        const row = { ids: marked, vocabSize: IDS.vocabSize };
        const { attend, positionIds, gate, seq } = dense(padLayouts([layout]));
        expect([...gate]).toEqual(marked.map(() => 1));
        for (let i = 0; i < seq; i++) {
          expect(positionIds[i]).toBe(sentinelPosition(row, i));
          for (let j = 0; j < seq; j++) {
            const expected = attendsIn(drawn, i, j);
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

  test("several blocks of different ratios in one row keep to themselves, labels included", () => {
    fc.assert(
      fc.property(texts, texts, (first, second) => {
        const drawn = [first, second];
        const layouts = drawn.map(({ block, mode }) => layoutText(block, mode));
        const seq = layouts[0].seq + layouts[1].seq + 3;
        const offsets = [0, layouts[0].seq];
        const batch = placeLayouts([layouts.map((layout, index) => ({ layout, start: offsets[index] }))], seq);
        const wanted = drawn.flatMap(({ marked }, index) =>
          sentinelLabels({ ids: marked, vocabSize: IDS.vocabSize }).map(([at, id]) => [at + offsets[index], id]),
        );
        const labels = batchLabels(batch);
        expect(labels.rows.map((at, index) => [at, labels.ids[index]])).toEqual(wanted);
        const { attend } = dense(batch);
        for (let i = 0; i < seq; i++) {
          for (let j = 0; j < seq; j++) {
            const one = i >= layouts[0].seq ? 1 : 0;
            const [row, column] = [i - offsets[one], j - offsets[one]];
            const inside = row < layouts[one].seq && column >= 0 && column < layouts[one].seq;
            const expected = inside && attendsIn(drawn[one], row, column);
            if ((attend[i * seq + j] === 1) !== expected) expect.fail(`attend ${i} → ${j} is ${!expected}`);
          }
        }
      }),
      { numRuns: 100 },
    );
  });

  test("spanwise, what is seen beside the open span is what local attention leaves of the text before it", () => {
    const ids = Array.from({ length: 400 }, (_, i) => 2 + (i % 40));
    const block = { key: "book/1@7", ids, wordStarts: ids.flatMap((_, i) => (i % 2 === 1 ? [i] : [])) };
    for (const ratio of [0.1, 0.5, 0.9]) {
      const shape = { ...IDS, blockTokens: Infinity, ratios: [ratio, ratio] } as const;
      const layout = layoutText(block, { ...shape, method: "sentinel", placement: "spanwise", longest: 25 });
      const { attend, seq } = dense(padLayouts([layout]));
      const spans = layout.segments.filter(({ kind }) => kind === "span");
      expect(spans.map(({ start, end }) => end - start)).toEqual([50, 50, 50, 50, 50, 50, 50, 49]);
      for (const { start, end } of spans) {
        const before = layout.positionIds[start];
        for (let row = start; row < end; row++) {
          const seen = attend.subarray(row * seq, (row + 1) * seq).reduce((sum, bit) => sum + bit, 0);
          expect(seen).toBe(before - Math.floor(before * ratio) + row - start + 1);
        }
      }
    }
  });

  test("costs a token as much as local attention does, unless its own span alone is more", () => {
    const ids = Array.from({ length: 400 }, (_, i) => 2 + (i % 40));
    const block = { key: "book/1@7", ids, wordStarts: ids.flatMap((_, i) => (i % 2 === 1 ? [i] : [])) };
    for (const ratio of [0.1, 0.5, 0.9]) {
      const shape = { ...IDS, blockTokens: Infinity, ratios: [ratio, ratio] } as const;
      const layout = layoutText(block, { ...shape, method: "sentinel", placement: "recent", longest: 25 });
      const local = dense(padLayouts([layoutText(block, { ...shape, method: "local" })]));
      const { attend, seq } = dense(padLayouts([layout]));
      const seen = (mask: Uint8Array, row: number, length: number): number =>
        mask.subarray(row * length, (row + 1) * length).reduce((sum, bit) => sum + bit, 0);
      let closed = 0;
      for (const { kind, start, end } of layout.segments) {
        if (kind === "close") closed++;
        if (kind !== "text" && kind !== "span") continue;
        for (let row = start; row < end; row++) {
          const wanted = seen(local.attend, layout.positionIds[row], ids.length);
          expect(seen(attend, row, seq)).toBe(Math.max(wanted, closed + row - start + 1));
        }
      }
      expect(closed).toBeGreaterThan(5);
    }
  });

  test("spans are as long as allowed and, unless tokens leave spanwise, shorter at high ratios", () => {
    const words = (longest: number, leaving: Leaving = "recent"): number[] =>
      [0, 0.5, 0.8, 0.85, 0.9].map((ratio) => recentSpanWords(leaving, ratio, longest));
    expect(words(25, "spanwise")).toEqual([25, 25, 25, 25, 25]);
    expect(words(25)).toEqual([25, 25, 24, 18, 12]);
    expect(words(8)).toEqual([8, 8, 8, 8, 8]);
    expect(() => recentSpanWords("recent", 0.5, 1)).toThrowError(
      expect.objectContaining({ code: "OPTION_INVALID" }) as Error,
    );
  });
});
