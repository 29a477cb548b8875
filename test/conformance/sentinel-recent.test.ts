/** @file Sentinel spans whose tokens leave one by one or spanwise, against one float64 pass over the whole text in its training form. */

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { type Memory } from "#precis/index.js";
import type { Leaving } from "#precis/sentinel/recent-rules.js";
import { difference } from "../golden/compare.js";
import { FIRST_BYTE_ID } from "../reference/byte-tokenizer.js";
import { decode } from "../reference/decoder.js";
import { markRecent, recentAttends, sentinelPosition } from "../reference/sentinel-oracle.js";
import { createFixture, type Fixture } from "./fixtures.js";
import { logitsInPieces } from "./pieces.js";

const TOLERANCE = 1e-4;
const VOCAB = 320;
let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 48, layers: 3 });
});
afterAll(() => fixture[Symbol.asyncDispose]());

const create = (span: number, ratio: number, policy: Leaving = "recent"): Promise<Memory> =>
  fixture.memory({ method: "sentinel", options: { policy, span, ratio } });

const isSpecial = (id: number | undefined): boolean => id !== undefined && id < FIRST_BYTE_ID;
const isSpace = (id: number): boolean => " \n\t\r\v\f".includes(String.fromCharCode(id - FIRST_BYTE_ID));

/** The training form of a stream: a control token ends a span, and is in none. */
function marked(ids: readonly number[], words: number): number[] {
  const starts = [0, ...ids.flatMap((id, i) => (isSpecial(id) || (i > 0 && isSpecial(ids[i - 1])) ? [i] : []))];
  return starts.flatMap((start, index) => {
    const part = ids.slice(start, starts[index + 1]);
    if (part.length === 0 || isSpecial(part[0])) return part;
    const begins = part.map((id, i) => i === 0 || (isSpace(id) && !isSpace(part[i - 1])));
    const isLast = index === starts.length - 1;
    return [...markRecent(part, begins, words, VOCAB), ...(isLast ? [] : [VOCAB + 1])];
  });
}

/** Logits of the text tokens of a marked text, all of it in one pass. */
function textLogits(ids: readonly number[], ratio: number, leaving: Leaving): number[] {
  const row = { ids, vocabSize: VOCAB };
  const { logits } = decode(fixture.files, {
    inputIds: ids,
    positionIds: ids.map((_, i) => sentinelPosition(row, i)),
    attend: ids.flatMap((_, i) =>
      ids.map((__, j) => (recentAttends(row, i, j, ratio, leaving === "spanwise") ? 1 : 0)),
    ),
    gate: ids.map(() => 1),
    adapter: fixture.sentinelAdapter,
  });
  return ids.flatMap((id, i) => (id < VOCAB ? [...logits.subarray(i * VOCAB, (i + 1) * VOCAB)] : []));
}

/** Positions of what the token after a marked text would see. */
function heldPositions(ids: readonly number[], ratio: number, leaving: Leaving): number[] {
  const row = { ids: [...ids, FIRST_BYTE_ID], vocabSize: VOCAB };
  return ids.flatMap((_, j) =>
    recentAttends(row, ids.length, j, ratio, leaving === "spanwise") ? [sentinelPosition(row, j)] : [],
  );
}

const ratio = fc.constantFrom(0, 0.2, 0.5, 0.8, 0.95);
const leavings = fc.constantFrom<Leaving>("recent", "spanwise");
const span = fc.integer({ min: 2, max: 4 });
const pieces = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 });
// One in ten is longer than a span may be.
const word = fc.tuple(fc.constantFrom(" ", " ", " ", "\n "), fc.constantFrom(1, 1, 1, 2, 2, 2, 3, 3, 3, 18));
const text = fc
  .array(word, { minLength: 1, maxLength: 12 })
  .map((words) => words.map(([space, length]) => space + "abcdefghijklmnopqrs".slice(0, length)).join(""))
  .map((joined) => [...Buffer.from(joined)].map((byte) => FIRST_BYTE_ID + byte));
/** Texts with control tokens before, between them, or two at once. */
const streams = fc
  .array(fc.tuple(fc.constantFrom([], [1], [1, 2]), text), { minLength: 1, maxLength: 3 })
  .map((parts) => parts.flatMap(([specials, ids]) => [...specials, ...ids]));

describe("reading", () => {
  test("logits of the training form, whatever the pieces, holding just what the next token sees", async () => {
    await fc.assert(
      fc.asyncProperty(streams, pieces, ratio, span, leavings, async (ids, lengths, share, words, leaving) => {
        const memory = await create(words, share, leaving);
        const whole = marked(ids, words);
        const expected = textLogits(whole, share, leaving);
        expect(difference(await logitsInPieces(memory, ids, lengths), expected)).toBeLessThan(TOLERANCE);
        const { positions } = await memory.rows();
        expect(positions).toEqual(heldPositions(whole, share, leaving));
        expect((await memory.stats()).slots).toBe(positions.length);
        await memory.dispose();
      }),
      { numRuns: 40 },
    );
  });

  test("costs as much as local attention at the same ratio, once that is more than an open span", async () => {
    const ids = [...Buffer.from("abc def ".repeat(50))].map((byte) => FIRST_BYTE_ID + byte);
    for (const share of [0.2, 0.5, 0.8]) {
      const [recent, local] = [
        await create(4, share),
        await fixture.memory({ method: "local", options: { ratio: share } }),
      ];
      await Promise.all([recent.append(ids), local.append(ids)]);
      expect((await recent.stats()).slots).toBe((await local.stats()).slots);
      const { kinds } = await recent.rows();
      expect(kinds.filter((kind) => kind === "span")).toHaveLength(25);
    }
  });

  test("spans are shorter at high ratios", async () => {
    const ids = [...Buffer.from(" ab".repeat(60))].map((byte) => FIRST_BYTE_ID + byte);
    const closed = async (share: number): Promise<number> => {
      const memory = await create(25, share);
      await memory.append(ids);
      return (await memory.rows()).kinds.filter((kind) => kind === "span").length;
    };
    expect([await closed(0.5), await closed(0.9)]).toEqual([2, 4]);
  });
});

describe("writing", () => {
  test.each<Leaving>(["recent", "spanwise"])(
    "%s: every token is the best one of the training form",
    async (leaving) => {
      const prompt = [...Buffer.from("a be see de e be")].map((byte) => FIRST_BYTE_ID + byte);
      for (const share of [0.3, 0.7]) {
        const [memory, reader] = [await create(2, share, leaving), await create(2, share, leaving)];
        const { tokenIds, stats } = await memory.answer(prompt, { maxTokens: 50, ignoreEos: true });
        const whole = marked([...prompt, ...tokenIds], 2);
        expect(whole.filter((id) => id === VOCAB + 1).length).toBeGreaterThan(4);
        const logits = textLogits(whole, share, leaving);
        tokenIds.forEach((token, i) => {
          const row = logits.slice((prompt.length + i - 1) * VOCAB, (prompt.length + i) * VOCAB);
          expect(row.indexOf(Math.max(...row))).toBe(token);
        });
        await reader.append([...prompt, ...tokenIds]);
        expect((await memory.rows()).positions).toEqual((await reader.rows()).positions);
        expect(stats.slots).toBe((await reader.stats()).slots);
        const next = [50, 38, 51];
        const [own, read] = [(await memory.forward(next)).logits, (await reader.forward(next)).logits];
        expect(difference(own, read)).toBeLessThan(TOLERANCE);
      }
    },
  );
});
