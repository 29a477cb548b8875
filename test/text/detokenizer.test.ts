import { fc } from "../property.js";
import { beforeAll, describe, expect, it } from "vitest";
import { StreamingDetokenizer } from "#precis/text/detokenizer.js";
import { Tokenizer } from "#precis/text/tokenizer.js";
import { EMBEDDED, metaspaceDir, sentencePieceDir, unicodeText, wordPieceDir } from "./tokenizer-fixtures.js";

const tokenizers = new Map<string, Tokenizer>();
const names = ["byte-level", "sentencepiece", "metaspace", "wordpiece"] as const;

beforeAll(async () => {
  const dirs = [EMBEDDED, sentencePieceDir(), metaspaceDir(), wordPieceDir()];
  for (const [i, dir] of dirs.entries()) tokenizers.set(names[i], await Tokenizer.load(dir));
});

function get(name: (typeof names)[number]): Tokenizer {
  return tokenizers.get(name) as Tokenizer;
}

function stream(tokenizer: Tokenizer, ids: readonly number[], skipSpecialTokens = false): string[] {
  const detokenizer = new StreamingDetokenizer(tokenizer, { skipSpecialTokens });
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()];
}

describe.each(names)("streaming with a %s tokenizer", (name) => {
  it("gives, joined, the decoding of any text", () => {
    const unit = fc.oneof(
      fc.constantFrom(..."hello mories of a days<>/s", " ", "  ", "\u{1F600}", "日", "\uFEFF"),
      unicodeText(3),
    );
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 20 }), (parts) => {
        const ids = get(name).encode(parts.join(""), { addSpecialTokens: false });
        expect(stream(get(name), ids).join("")).toBe(get(name).decode(ids));
      }),
      { numRuns: 200 },
    );
  });

  it("gives, joined, the decoding of any ids, special ones skipped or not", () => {
    const ids = fc.array(fc.nat(get(name).vocabSize + 2), { maxLength: 30 });
    fc.assert(
      fc.property(ids, fc.boolean(), (list, skipSpecialTokens) => {
        expect(stream(get(name), list, skipSpecialTokens).join("")).toBe(get(name).decode(list, { skipSpecialTokens }));
      }),
      { numRuns: 300 },
    );
  });
});

describe("what a reader sees while text arrives", () => {
  it("never shows part of a character", () => {
    const text = "日本 👩‍👩‍👧 é";
    for (const name of ["byte-level", "sentencepiece"] as const) {
      const ids = get(name).encode(text, { addSpecialTokens: false });
      const pieces = stream(get(name), ids);
      expect(pieces.some((piece) => piece.includes("\uFFFD"))).toBe(false);
      expect(pieces.filter((piece) => piece === "").length).toBeGreaterThan(3);
    }
  });

  it("shows an emoji with its last byte", () => {
    const ids = get("sentencepiece").encode("a\u{1F600}", { addSpecialTokens: false });
    expect(stream(get("sentencepiece"), ids).slice(-5)).toEqual(["", "", "", "\u{1F600}", ""]);
  });

  it("drops the space put before the text, and no other", () => {
    const ids = get("sentencepiece").encode("hello  hello", { addSpecialTokens: false });
    expect(stream(get("sentencepiece"), ids).filter(Boolean)).toEqual(["hello", " ", " hello"]);
  });

  it("gives U+FFFD for a character that never completes, and then starts afresh", () => {
    const [first] = get("sentencepiece").encode("\u{1F600}", { addSpecialTokens: false }).slice(1);
    const detokenizer = new StreamingDetokenizer(get("sentencepiece"));
    expect([detokenizer.push(first), detokenizer.flush(), detokenizer.flush()]).toEqual(["", "\uFFFD", ""]);
    const ids = get("sentencepiece").encode("hello", { addSpecialTokens: false });
    expect(ids.map((id) => detokenizer.push(id)).join("")).toBe("hello");
  });

  it("shows a broken character before the special token that follows it", () => {
    const cut = get("byte-level").encode("\u{1F600}").slice(0, 1);
    expect(stream(get("byte-level"), [...cut, 2])).toEqual(["", "\uFFFD<|end|>", ""]);
  });
});
