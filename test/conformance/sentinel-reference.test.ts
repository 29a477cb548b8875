/** @file Sentinel, local and scattered memories against one float64 pass over the whole text in its training form. */

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { sentinelIds, type Memory } from "#precis/index.js";
import { isScatteredKept } from "#precis/sentinel/sparse-rules.js";
import { difference } from "../golden/compare.js";
import { FIRST_BYTE_ID } from "../reference/byte-tokenizer.js";
import { decode, type DecodeOutput } from "../reference/decoder.js";
import { sentinelAttends, sentinelPosition } from "../reference/sentinel-oracle.js";
import { expectError } from "./expect-error.js";
import { createFixture, type Fixture } from "./fixtures.js";
import { logitsInPieces } from "./pieces.js";

const TOLERANCE = 1e-4;
const VOCAB = 320;
const { open, close } = sentinelIds(VOCAB);
let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 47, layers: 3 });
});
afterAll(() => fixture[Symbol.asyncDispose]());

const create = (options: Record<string, unknown>): Promise<Memory> => fixture.memory({ method: "sentinel", options });

/** The whole text in one pass, its sentinels included. */
function trainingForm(marked: readonly number[]): DecodeOutput {
  const row = { ids: marked, vocabSize: VOCAB };
  return decode(fixture.files, {
    inputIds: marked,
    positionIds: marked.map((_, i) => sentinelPosition(row, i)),
    attend: marked.flatMap((_, i) => marked.map((__, j) => (sentinelAttends(row, i, j) ? 1 : 0))),
    gate: marked.map(() => 1),
    adapter: fixture.sentinelAdapter,
  });
}

/** Logits of the text tokens of a marked text. */
function textLogits(marked: readonly number[]): number[] {
  const { logits } = trainingForm(marked);
  return marked.flatMap((id, i) => (id < VOCAB ? [...logits.subarray(i * VOCAB, (i + 1) * VOCAB)] : []));
}

/** Spans as the training form of a text: ranges of `ids`. */
function wrap(ids: readonly number[], spans: readonly (readonly [number, number])[]): number[] {
  return ids.flatMap((id, i) => [
    ...spans.flatMap(([start]) => (start === i ? [open] : [])),
    id,
    ...spans.flatMap(([, end]) => (end === i + 1 ? [close] : [])),
  ]);
}

const id = fc.integer({ min: 2, max: VOCAB - 1 });
const pieces = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 });

describe("marked spans", () => {
  const stretch = fc.record({ wrapped: fc.boolean(), ids: fc.array(id, { minLength: 2, maxLength: 7 }) });
  const inputs = fc.array(fc.array(stretch, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 3 });
  const marked = (stretches: readonly { wrapped: boolean; ids: number[] }[]): number[] =>
    stretches.flatMap(({ wrapped, ids }) => (wrapped ? [open, ...ids, close] : ids));

  test("leave only the row of <CR>, and the logits of the training form", async () => {
    await fc.assert(
      fc.asyncProperty(inputs, async (drawn) => {
        const memory = await create({ policy: "marked" });
        const got: number[] = [];
        for (const [turn, input] of drawn.entries()) {
          got.push(...(await memory.forward(marked(input))).logits);
          if (turn % 2 === 0) await memory.append(marked(input));
          else await memory.score(marked(input));
        }
        const whole = drawn.flatMap(marked);
        expect(difference(got, textLogits(whole))).toBeLessThan(TOLERANCE);
        // What is held are the rows of <CR> and of text outside, in the order of the text.
        const row = { ids: whole, vocabSize: VOCAB };
        let inside = false;
        const kept = whole.flatMap((token, i) => {
          if (token === open || token === close) inside = token === open;
          return token !== open && !inside ? [i] : [];
        });
        const held = await memory.rows();
        expect(held.positions).toEqual(kept.map((i) => sentinelPosition(row, i)));
        const { cache } = trainingForm(whole);
        const { kvHeads, headDim } = fixture.model.info;
        cache.forEach(({ keys }, layer) => {
          const expected = Array.from({ length: kvHeads }, (_, head) =>
            kept.flatMap((i) => [...keys.subarray((head * whole.length + i) * headDim).subarray(0, headDim)]),
          ).flat();
          expect(difference(held.keys[layer], expected)).toBeLessThan(TOLERANCE);
        });
        await memory.dispose();
      }),
      { numRuns: 30 },
    );
  });

  test("may be marked in text, where white space belongs to what follows it", async () => {
    const ids = (text: string): number[] => [...Buffer.from(text)].map((byte) => FIRST_BYTE_ID + byte);
    const wanted = [
      ...ids("I like"),
      open,
      ...ids(" blue cheese"),
      close,
      ...ids(" a lot."),
      open,
      ...ids("Yes"),
      close,
    ];
    for (const text of [
      "I like <CL>blue cheese<CR> a lot.<CL>Yes<CR>",
      "I like<CL> blue cheese <CR>a lot.<CL>Yes<CR>",
      "I like <CL> blue cheese <CR> a lot.<CL>Yes<CR>",
    ]) {
      const [inText, inIds] = [await create({ policy: "marked" }), await create({ policy: "marked" })];
      await inText.append(text);
      await inIds.append(wanted);
      expect(await inText.rows()).toEqual(await inIds.rows());
    }
    const memory = await create({ policy: "marked" });
    await memory.append([{ role: "user", content: "I like <CL>blue cheese<CR> a lot." }]);
    const { tokensSeen, slots } = await memory.stats();
    expect(tokensSeen - slots).toBe(" blue cheese".length - 1);
  });

  test("that nest, do not match, wrap nothing or are too long are refused, and nothing is taken in", async () => {
    const memory = await create({ policy: "marked", span: 3 });
    const bad: [string | number[], RegExp][] = [
      ["a <CL>b <CL>c<CR> d<CR>", /inside another/],
      ["a <CL>b", /not closed/],
      ["a <CR>b", /not opened/],
      ["a <CL><CR>b", /empty/],
      ["a <CL>one two three four<CR>", /4 words; at most 3/],
      [[10, open, 11, open, 12, close], /inside another/],
      [[10, open, 11], /not closed/],
      [[10, close], /not opened/],
    ];
    for (const [input, says] of bad) {
      await expectError(memory.append(input), "INPUT_INVALID", says);
      await expectError(memory.answer(input), "INPUT_INVALID", says);
      await expectError(memory.score(input), "INPUT_INVALID", says);
    }
    expect((await memory.stats()).tokensSeen).toBe(0);
  });

  test("are ordinary text where marks are not read", async () => {
    const memory = await create({ policy: "fixed" });
    await memory.append("<CL>a<CR>");
    expect((await memory.stats()).tokensSeen).toBe("<CL>a<CR>".length);
    await expectError(memory.append([10, open, 11, close]), "INPUT_INVALID", /outside the vocabulary/);
  });
});

describe("policies", () => {
  const word = fc.tuple(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 2 }), fc.nat(3));
  const words = fc
    .array(word, { minLength: 1, maxLength: 16 })
    .map((drawn) => drawn.map(([text, end], i) => `${i === 0 ? "" : " "}${text}${end === 0 ? "." : ""}`));
  const idsOf = (text: string): number[] => [...Buffer.from(text)].map((byte) => FIRST_BYTE_ID + byte);

  /** Groups of words as ranges of tokens; the last group is still open, as no word follows it. */
  function spansOf(groups: readonly string[][], isCompressed: (group: number) => boolean): [number, number][] {
    let start = 0;
    return groups.flatMap((group, index): [number, number][] => {
      const end = start + group.join("").length;
      const span: [number, number] = [start, end];
      start = end;
      return index < groups.length - 1 && isCompressed(index) && span[1] - span[0] >= 2 ? [span] : [];
    });
  }

  function groupsOf(all: readonly string[], isOver: (group: readonly string[]) => boolean): string[][] {
    const groups: string[][] = [[]];
    for (const one of all) {
      if (isOver(groups.at(-1)!)) groups.push([]);
      groups.at(-1)!.push(one);
    }
    return groups;
  }

  const span = 3;
  test.each([
    { policy: "fixed", isOver: (group: readonly string[]) => group.length === span, isCompressed: () => true },
    {
      policy: "every",
      isOver: (group: readonly string[]) => group.length === span,
      // A ratio of 1/3 with spans of three words, each of which leaves a <CR>: every second span.
      isCompressed: (group: number) => group % 2 === 1,
    },
    {
      policy: "sentence",
      isOver: (group: readonly string[]) => group.length === span || group.at(-1)?.endsWith(".") === true,
      isCompressed: () => true,
    },
  ])("$policy: logits of the training form, whatever the pieces", async ({ policy, isOver, isCompressed }) => {
    await fc.assert(
      fc.asyncProperty(words, pieces, async (all, lengths) => {
        const memory = await create({ policy, span, ratio: 1 / 3 });
        // Control tokens before and after are never inside a span.
        const ids = [1, ...idsOf(all.join("")), 2];
        const spans = spansOf([...groupsOf(all, isOver), []], isCompressed).map(([start, end]) => [start + 1, end + 1]);
        const expected = textLogits(wrap(ids, spans as [number, number][]));
        expect(difference(await logitsInPieces(memory, ids, lengths), expected)).toBeLessThan(TOLERANCE);
        const removed = spans.reduce((sum, [start, end]) => sum + end - start - 1, 0);
        expect((await memory.stats()).slots).toBe(ids.length - removed);
        await memory.dispose();
      }),
      { numRuns: 25 },
    );
  });

  test("older: the window stays, what is older is whole words compressed, whatever the pieces", async () => {
    await fc.assert(
      fc.asyncProperty(words, pieces, fc.nat(12), async (all, lengths, window) => {
        const ids = idsOf(all.join(""));
        const [memory, atOnce] = [
          await create({ policy: "older", span, window }),
          await create({ policy: "older", span, window }),
        ];
        await logitsInPieces(memory, ids, lengths);
        await atOnce.score(ids);
        const { kinds, positions, keys } = await memory.rows();
        const same = await atOnce.rows();
        expect(same.positions).toEqual(positions);
        keys.forEach((layer, index) => expect(difference(layer, same.keys[index])).toBeLessThan(TOLERANCE));
        const text = kinds.filter((kind) => kind === "text").length;
        expect(text).toBeGreaterThanOrEqual(Math.min(window, ids.length));
        // The window, the span being filled, the last word, and one-letter words that are not worth a span.
        expect(text).toBeLessThanOrEqual(window + 8 * span + all.length);
        await Promise.all([memory.dispose(), atOnce.dispose()]);
      }),
      { numRuns: 20 },
    );
  });

  test("text without white space is compressed too", async () => {
    const memory = await create({ policy: "fixed", span: 3 });
    await memory.append(Array.from({ length: 100 }, () => FIRST_BYTE_ID + 97));
    expect((await memory.stats()).slots).toBeLessThan(25);
  });
});

describe("answers are compressed as they are written", () => {
  test("alone and together with others, to the training form of prompt and answer", async () => {
    const prompt = "the cat sat on the mat and";
    const make = async (): Promise<Memory> => create({ policy: "fixed", span: 2 });
    const [alone, together, other] = [await make(), await make(), await fixture.memory({ method: "full" })];
    const options = { maxTokens: 60, ignoreEos: true };
    const { tokenIds, stats } = await alone.answer(prompt, options);
    expect(stats.slots).toBeLessThan(stats.tokensSeen - 8);
    const [again] = await Promise.all([together.answer(prompt, options), other.answer([40, 41], options)]);
    expect(again.tokenIds).toEqual(tokenIds);
    // What comes next is predicted as if the whole had been read with those spans.
    const read = await make();
    await read.score([...[...Buffer.from(prompt)].map((byte) => FIRST_BYTE_ID + byte), ...tokenIds]);
    const next = [50, 38, 51];
    expect(difference((await alone.forward(next)).logits, (await read.forward(next)).logits)).toBeLessThan(TOLERANCE);
    expect(await alone.rows()).toMatchObject({ positions: (await read.rows()).positions });
  });

  test("every token is the best one of the training form", async () => {
    const prompt = [...Buffer.from("a be see de e")].map((byte) => FIRST_BYTE_ID + byte);
    const memory = await create({ policy: "fixed", span: 2 });
    const { tokenIds } = await memory.answer(prompt, { maxTokens: 40, ignoreEos: true });
    const ids = [...prompt, ...tokenIds];
    // Two words, or eight tokens of what has no white space; one token alone is not worth a span.
    const isSpace = (i: number): boolean => " \n\t\r\v\f".includes(String.fromCharCode(ids[i] - FIRST_BYTE_ID));
    const isSpecial = (i: number): boolean => ids[i] < FIRST_BYTE_ID;
    const spans: [number, number][] = [];
    let [start, words] = [0, 1];
    for (let i = 1; i < ids.length; i++) {
      const starts = isSpecial(i) || isSpecial(i - 1) || (isSpace(i) && !isSpace(i - 1));
      if (isSpecial(i) || isSpecial(i - 1) || i - start >= 8 || (starts && words === 2)) {
        if (i - start >= 2) spans.push([start, i]);
        [start, words] = [i, 0];
      }
      if (starts || start === i) words++;
    }
    expect(spans.length).toBeGreaterThan(4);
    const logits = textLogits(wrap(ids, spans));
    tokenIds.forEach((token, i) => {
      const row = logits.slice((prompt.length + i - 1) * VOCAB, (prompt.length + i) * VOCAB);
      expect(row.indexOf(Math.max(...row))).toBe(token);
    });
  });
});

describe("the baselines equal the float64 reference token by token", () => {
  const ratio = fc.constantFrom(0, 0.1, 0.5, 0.9);

  test("local", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(id, { minLength: 1, maxLength: 40 }), pieces, ratio, async (ids, lengths, share) => {
        const memory = await fixture.model.createMemory({ method: "local", options: { ratio: share } });
        const attend = ids.flatMap((_, i) => ids.map((__, j) => (j <= i && j >= Math.floor(i * share) ? 1 : 0)));
        const { logits } = decode(fixture.files, { inputIds: ids, attend });
        expect(difference(await logitsInPieces(memory, ids, lengths), logits)).toBeLessThan(TOLERANCE);
        expect((await memory.stats()).slots).toBe(ids.length - Math.floor(ids.length * share));
        await memory.dispose();
      }),
      { numRuns: 20 },
    );
  });

  test("scattered", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(id, { minLength: 1, maxLength: 40 }), pieces, ratio, async (ids, lengths, share) => {
        const memory = await fixture.model.createMemory({ method: "scattered", options: { ratio: share, seed: 5 } });
        const kept = ids.map((_, i) => isScatteredKept(i, share, 5));
        const attend = ids.flatMap((_, i) => ids.map((__, j) => (j === i || (j < i && kept[j]) ? 1 : 0)));
        const { logits } = decode(fixture.files, { inputIds: ids, attend });
        expect(difference(await logitsInPieces(memory, ids, lengths), logits)).toBeLessThan(TOLERANCE);
        expect((await memory.stats()).slots).toBe(kept.filter(Boolean).length);
        await memory.dispose();
      }),
      { numRuns: 20 },
    );
  });
});
