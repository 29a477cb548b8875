/** @file Sentinel spans that a caller's function chooses. */

import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { sentinelIds, type ChooseSpans, type Memory, type SpanQuestion } from "#precis/index.js";
import { difference } from "../golden/compare.js";
import { FIRST_BYTE_ID } from "../reference/byte-tokenizer.js";
import { expectError } from "./expect-error.js";
import { createFixture, type Fixture } from "./fixtures.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await createFixture({ seed: 53 });
});
afterAll(() => fixture[Symbol.asyncDispose]());

const TEXT = "It rains (in Porto) and it pours (in Lisbon) today";
const PARENTHESES = ["(in Porto)", "(in Lisbon)"];

/** Whatever is in parentheses. */
const parentheses: ChooseSpans = ({ tokens }) => {
  const text = tokens.map((token) => token.text ?? "?").join("");
  return [...text.matchAll(/\([^)]*\)/g)].map(({ index, 0: found }) => ({ start: index, end: index + found.length }));
};

/** Every eight tokens. */
const eights: ChooseSpans = ({ tokens }) =>
  Array.from({ length: Math.floor(tokens.length / 8) }, (_, i) => ({ start: 8 * i, end: 8 * i + 8 }));

const create = (spans?: ChooseSpans): Promise<Memory> =>
  fixture.memory({ method: "sentinel", options: { policy: "caller" }, spans });

async function slotsAfter(memory: Memory, text: string): Promise<number> {
  await memory.append(text);
  return (await memory.stats()).slots;
}

describe("spans of a caller's function", () => {
  test("are compressed as if they had been marked, in whatever pieces the text comes", async () => {
    const ids = [...Buffer.from(TEXT)].map((byte) => FIRST_BYTE_ID + byte);
    const { open, close } = sentinelIds(fixture.model.info.vocabSize);
    const starts = PARENTHESES.map((found) => TEXT.indexOf(found));
    const ends = PARENTHESES.map((found, i) => starts[i] + found.length);
    const marked = await fixture.memory({ method: "sentinel", options: { policy: "marked" } });
    await marked.append(
      ids.flatMap((id, i) => [...(starts.includes(i) ? [open] : []), id, ...(ends.includes(i + 1) ? [close] : [])]),
    );
    const wanted = await marked.rows();
    for (const length of [7, 100]) {
      const memory = await create(parentheses);
      for (let start = 0; start < TEXT.length; start += length) {
        await memory.append(ids.slice(start, start + length));
      }
      const rows = await memory.rows();
      expect(rows.positions).toEqual(wanted.positions);
      rows.keys.forEach((keys, layer) => expect(difference(keys, wanted.keys[layer])).toBeLessThan(1e-4));
    }
  });

  test("are asked for with texts, words and what was read", async () => {
    const asked: SpanQuestion[] = [];
    const memory = await create((question) => {
      asked.push(question);
      return [];
    });
    await memory.append("ab c");
    await memory.append("d");
    expect(asked[0]).toMatchObject({ read: 0 });
    expect(asked[0].tokens.map(({ text }) => text)).toEqual(["a", "b", " ", "c"]);
    expect(asked[0].tokens.map(({ startsWord }) => startsWord)).toEqual([true, false, true, false]);
    expect(asked[0].tokens.every(({ special }) => !special)).toBe(true);
    expect(asked[1].read).toBe(4);
    expect(asked[1].tokens.map(({ text }) => text).join("")).toBe("ab cd");
  });

  test("may come late", async () => {
    const memory = await create(async (question) => {
      await sleep(2);
      return parentheses(question);
    });
    expect(await slotsAfter(memory, TEXT)).toBeLessThan(TEXT.length);
  });

  test("are taken from what the model writes", async () => {
    const memory = await create(eights);
    const { stats } = await memory.answer("ab", { maxTokens: 33, ignoreEos: true });
    expect(stats.tokensSeen).toBe(35);
    // Four spans of eight, and three tokens that are not a span yet.
    expect(stats.slots).toBe(4 + 3);
  });

  test("go on in forks and restored memories", async () => {
    const memory = await create(eights);
    await memory.append("abcd");
    const fork = await memory.fork();
    await memory.dispose();
    expect(await slotsAfter(fork, "efghi")).toBe(2);
    const bytes = await fork.snapshot();
    const adapter = fixture.sentinelAdapter.directory;
    const restored = await fixture.model.restoreMemory(bytes, { adapter, spans: eights });
    expect(await slotsAfter(restored, "jklmnopq")).toBe(3);
    await fork.restore(bytes);
    expect(await slotsAfter(fork, "jklmnopq")).toBe(3);
    const without = await fixture.model.restoreMemory(bytes, { adapter });
    await expectError(without.append("a"), "OPTION_INVALID", /needs a function/, /restoreMemory/);
  });

  test.each([
    ["empty", [{ start: 1, end: 1 }]],
    [
      "out of order",
      [
        { start: 2, end: 4 },
        { start: 0, end: 2 },
      ],
    ],
    ["beyond the text", [{ start: 2, end: 40 }]],
    ["no spans at all", "all of it"],
  ])("are refused if they are %s", async (_, spans) => {
    const memory = await create(() => spans as never);
    await expectError(memory.append("abcdef"), "INPUT_INVALID", /ranges in order/);
    expect((await memory.stats()).tokensSeen).toBe(0);
  });

  test("fail with the function, and leave the memory as it was", async () => {
    const memory = await create(() => {
      throw new Error("no idea");
    });
    await expectError(memory.append("abcdef"), "INPUT_INVALID", /no idea/);
    expect((await memory.stats()).tokensSeen).toBe(0);
    await expectError((await create()).append("a"), "OPTION_INVALID", /needs a function/);
  });

  test("do not keep an operation from being aborted, nor a model from being disposed", async () => {
    const memory = await create(() => new Promise(() => undefined));
    const controller = new AbortController();
    const work = memory.append("abc", { signal: controller.signal });
    setTimeout(() => controller.abort(), 20);
    await expectError(work, "ABORTED");
    await using other = await createFixture();
    const stuck = await other.memory({
      method: "sentinel",
      options: { policy: "caller" },
      spans: () => new Promise(() => undefined),
    });
    const failed = expectError(stuck.append("abc"), "DISPOSED");
    await sleep(20);
    await other.model.dispose();
    await failed;
  });
});
