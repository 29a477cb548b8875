/** @file Small tokenizers of the kinds that precis-28m is not, written to temporary directories. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fc } from "../property.js";
import { afterAll } from "vitest";

/** Repository-relative directory of the embedded model: a byte-level BPE tokenizer with a chat template. */
export const EMBEDDED = "models/precis-28m";

/** Any characters (fast-check's own "binary" strings take seconds to set up). */
export function unicodeText(maxLength: number): fc.Arbitrary<string> {
  const point = fc.oneof(fc.nat(0x7f), fc.nat(0xd7ff), fc.integer({ min: 0xe000, max: 0x10ffff }));
  return fc.array(point, { maxLength }).map((points) => String.fromCodePoint(...points));
}

const written: string[] = [];

afterAll(() => {
  for (const dir of written) rmSync(dir, { recursive: true, force: true });
});

/** Write JSON files (or texts) to a new directory, which is removed after the tests of a file. */
export function writeModelDir(files: Record<string, unknown>): string {
  const dir = mkdtempSync(join(tmpdir(), "precis-text-"));
  written.push(dir);
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(dir, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return dir;
}

function ids(tokens: string[]): Record<string, number> {
  return Object.fromEntries(tokens.map((token, id) => [token, id]));
}

const byteTokens = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);
const letters = [..."▁abcdefghijklmnopqrstuvwxyz<>/.,!"];
const added = ["<unk>", "<s>", "</s>"].map((content, id) => ({ id, content, special: true, normalized: false }));

const sentencePieceModel = {
  type: "BPE",
  unk_token: "<unk>",
  byte_fallback: true,
  fuse_unk: true,
  vocab: ids(["<unk>", "<s>", "</s>", ...byteTokens, ...letters, "▁h", "▁he", "ll", "▁hell", "▁hello", "</", "s>"]),
  // The last merge spells a special token: ordinary text must still never become it.
  merges: ["▁ h", "▁h e", "l l", "▁he ll", "▁hell o", "< /", "s >", "</ s>"],
};

/** Llama-2 style: a space put before the text, bytes as fallback, BOS from the post-processor. */
export function sentencePieceDir(): string {
  return writeModelDir({
    "tokenizer.json": {
      added_tokens: added,
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "Prepend", prepend: "▁" },
          { type: "Replace", pattern: { String: " " }, content: "▁" },
        ],
      },
      pre_tokenizer: null,
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
        special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
      },
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: sentencePieceModel,
    },
    // The object form that transformers wrote for years, and the clean-up that must not eat spaces.
    "tokenizer_config.json": {
      bos_token: { __type: "AddedToken", content: "<s>" },
      eos_token: { content: "</s>" },
      clean_up_tokenization_spaces: true,
    },
  });
}

/** T5 style: Metaspace on both sides. */
export function metaspaceDir(): string {
  return writeModelDir({
    "tokenizer.json": {
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
      post_processor: null,
      decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
      model: { ...sentencePieceModel, byte_fallback: false },
    },
    "special_tokens_map.json": { eos_token: "</s>" },
  });
}

/** BERT style: pieces of a word begin with `##`. */
export function wordPieceDir(): string {
  return writeModelDir({
    "tokenizer.json": {
      added_tokens: [{ id: 0, content: "[UNK]", special: true }],
      normalizer: { type: "Lowercase" },
      pre_tokenizer: { type: "Whitespace" },
      post_processor: null,
      decoder: { type: "WordPiece", prefix: "##", cleanup: false },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: ids(["[UNK]", "mem", "##ory", "##ories", "of", "a", "day", "##s"]),
      },
    },
  });
}
