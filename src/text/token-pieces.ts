/** @file What each token adds to decoded text, for the decoders that language models use. */

import type { DecoderDefinition } from "./tokenizer-files.js";

/** What one token adds: raw bytes of UTF-8 text (perhaps part of a character), or whole text. */
export type TokenPiece = Uint8Array | string;

/** How the tokens of one tokenizer turn into text, piece by piece. */
export interface PieceRules {
  /** The piece of a token that is not an added token. */
  pieceOf(token: string): TokenPiece;
  /** The piece of an added token (`<|user|>`, …). */
  addedPieceOf(token: string): TokenPiece;
  /** Whether a run of bytes keeps a byte order mark at its start. */
  keepsByteOrderMark: boolean;
  /** How many times `text` may be dropped from the very start of the decoded text. */
  strip: { text: string; count: number; firstTokenOnly: boolean };
}

const NO_STRIP: PieceRules["strip"] = { text: " ", count: 0, firstTokenOnly: false };

/** Byte-level BPE writes each byte as one printable character: itself where printable, else one from U+0100 on. */
function byteLevelAlphabet(): Map<string, number> {
  const alphabet = new Map<string, number>();
  let shifted = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    alphabet.set(String.fromCharCode(printable ? byte : shifted++), byte);
  }
  return alphabet;
}

let alphabet: Map<string, number> | undefined;

function byteLevelRules(): PieceRules {
  const byteOf = (alphabet ??= byteLevelAlphabet());
  return {
    pieceOf: (token) => Uint8Array.from([...token], (char) => byteOf.get(char) ?? 0),
    addedPieceOf: (token) => token,
    keepsByteOrderMark: true,
    strip: NO_STRIP,
  };
}

function metaspaceRules(decoder: DecoderDefinition): PieceRules {
  const pieceOf = (token: string): string => token.replaceAll(decoder.replacement ?? "\u2581", " ");
  const strip = { text: " ", count: 1, firstTokenOnly: true };
  return { pieceOf, addedPieceOf: pieceOf, keepsByteOrderMark: false, strip };
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** SentencePiece models: replacements, byte tokens `<0xE2>`, everything fused, then perhaps a leading space dropped. */
function sentencePieceRules(steps: readonly DecoderDefinition[]): PieceRules | undefined {
  const at = steps.findIndex((step) => step.type === "ByteFallback");
  const replacements: [string, string][] = [];
  for (const { type, pattern, content } of steps.slice(0, at)) {
    if (type !== "Replace" || typeof pattern?.String !== "string") return undefined;
    replacements.push([pattern.String, content ?? ""]);
  }
  const [fuse, strip, ...others] = steps.slice(at + 1);
  if (fuse?.type !== "Fuse" || others.length > 0) return undefined;
  if (strip !== undefined && (strip.type !== "Strip" || (strip.stop ?? 0) > 0)) return undefined;
  const pieceOf = (token: string): TokenPiece => {
    const replaced = replacements.reduce((text, [from, to]) => text.replaceAll(from, to), token);
    const byte = BYTE_TOKEN.exec(replaced)?.[1];
    return byte === undefined ? replaced : Uint8Array.of(Number.parseInt(byte, 16));
  };
  return {
    pieceOf,
    addedPieceOf: pieceOf,
    keepsByteOrderMark: false,
    strip:
      strip === undefined ? NO_STRIP : { text: strip.content ?? "", count: strip.start ?? 0, firstTokenOnly: false },
  };
}

/**
 * The rules of a tokenizer.json's decoder, or undefined for decoders whose tokens depend on their neighbours
 * (WordPiece, `</w>` suffixes) or that are not known.
 */
export function pieceRules(decoder: DecoderDefinition | null): PieceRules | undefined {
  if (decoder?.type === "ByteLevel") return byteLevelRules();
  if (decoder?.type === "Metaspace") return metaspaceRules(decoder);
  if (decoder?.type !== "Sequence") return undefined;
  const steps = decoder.decoders ?? [];
  if (steps.length === 1) return pieceRules(steps[0] as DecoderDefinition);
  return steps.some((step) => step.type === "ByteFallback") ? sentencePieceRules(steps) : undefined;
}
