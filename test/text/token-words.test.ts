/** @file Words and sentences in token ids, with the embedded model's tokenizer. */

import { beforeAll, describe, expect, test } from "vitest";

import { TokenWords } from "#precis/text/token-words.js";
import { Tokenizer } from "#precis/text/tokenizer.js";

let tokenizer: Tokenizer;
let words: TokenWords;
beforeAll(async () => {
  tokenizer = await Tokenizer.load("models/precis-28m");
  words = new TokenWords(tokenizer);
});

const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });

/** The text cut where words begin. */
function cut(text: string): string[] {
  const ids = encode(text);
  const starts = words.starts(ids);
  return starts.map((start, i) => tokenizer.decode(ids.slice(start, starts[i + 1])));
}

describe("words of token ids", () => {
  test.each(["The unbelievably quick fox, isn't it?", "A  word\n\nor two. (Three!)", "naïve café 12,345 x"])(
    "are what white space separates: %s",
    (text) => {
      const found = cut(text);
      expect(found.join("")).toBe(text);
      expect(found.map((word) => word.trim())).toEqual(text.split(/\s+/));
      expect(words.count(encode(text))).toBe(found.length);
    },
  );

  test("do not run into control tokens", () => {
    const special = tokenizer.bosId as number;
    const ids = [special, ...encode("one two"), special, ...encode("three")];
    expect(words.isSpecial(special)).toBe(true);
    expect(words.isSpecial(ids[1])).toBe(false);
    expect(words.count(ids)).toBe(5);
  });

  test("are single tokens without a tokenizer", () => {
    expect(new TokenWords().starts([5, 6, 7])).toEqual([0, 1, 2]);
    expect(new TokenWords().textOf(5)).toBeUndefined();
  });
});

test("sentences end at end marks, also before a quote, and at line breaks", () => {
  const ends = (text: string, next = " Next"): boolean => words.endsSentence(encode(text).at(-1)!, encode(next)[0]);
  expect(ends("It rains.")).toBe(true);
  expect(ends("Does it?")).toBe(true);
  expect(ends('He said "no."')).toBe(true);
  expect(ends("It rains")).toBe(false);
  expect(ends("one, ")).toBe(false);
  expect(ends("A heading", "\n")).toBe(true);
});
