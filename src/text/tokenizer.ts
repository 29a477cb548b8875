/** @file Text to token ids and back, for the tokenizer.json of a model directory. */

import { PrecisError } from "../errors.js";
import { pieceRules } from "./token-pieces.js";
import type { PieceRules } from "./token-pieces.js";
import { readTokenizerFiles, SPECIAL_TOKEN_KEYS, specialTokenText } from "./tokenizer-files.js";
import type { TokenizerFiles } from "./tokenizer-files.js";
import { createLibraryTokenizer, withoutSpecialTokens } from "./tokenizer-library.js";
import type { LibraryTokenizer } from "./tokenizer-library.js";

/** Options of {@link Tokenizer.encode}. */
export interface EncodeOptions {
  /**
   * Add what the tokenizer's post-processor adds, usually BOS (default true). Say false for text that a chat template
   * rendered: it already holds its BOS.
   */
  addSpecialTokens?: boolean;
  /**
   * Read `<|user|>` and the like as the special tokens they name (default true). With false they are ordinary text, so
   * that a user's message cannot fake a turn; added tokens that the model does not call special stay recognised.
   */
  allowSpecial?: boolean;
}

/** Options of {@link Tokenizer.decode}. */
export interface DecodeOptions {
  /** Leave special tokens out of the text (default false). */
  skipSpecialTokens?: boolean;
}

// Noncharacters never occur in interchanged text, so they can mark a stand-in without an escape.
const STAND_IN = /\uFDD0(\d+)\uFDD1/;

/**
 * A model's tokenizer.
 * @example
 * const tokenizer = await Tokenizer.load("models/precis-28m");
 * const ids = tokenizer.encode("Where were we?");
 * tokenizer.decode(ids); // "Where were we?"
 */
export class Tokenizer {
  /** One more than the largest id. Embedding tables may have more rows, never fewer. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  /** Ids that {@link DecodeOptions.skipSpecialTokens} leaves out. */
  readonly specialIds: ReadonlySet<number>;
  /** sha256 of the bytes of tokenizer.json, in hex: two tokenizers with the same hash give the same ids. */
  readonly hash: string;
  /** How single tokens turn into text; undefined where that depends on their neighbours. */
  readonly pieceRules: PieceRules | undefined;

  readonly #library: LibraryTokenizer;
  readonly #files: TokenizerFiles;
  readonly #addedIds: ReadonlySet<number>;
  readonly #specialTexts: readonly string[];
  readonly #specialPattern: RegExp | undefined;
  #plainLibrary: LibraryTokenizer | undefined;

  private constructor(files: TokenizerFiles) {
    this.#files = files;
    this.#library = createLibraryTokenizer(files.definition, files.config);
    this.vocabSize = this.#library.model.vocab.length;
    this.bosId = this.#configuredId("bos_token");
    this.eosId = this.#configuredId("eos_token");
    this.padId = this.#configuredId("pad_token");
    this.hash = files.hash;
    this.pieceRules = pieceRules(files.definition.decoder);
    this.#addedIds = new Set(files.definition.added_tokens.map(({ id }) => id));
    this.specialIds = this.#findSpecialIds();
    this.#specialTexts = [...this.specialIds].map((id) => this.idToToken(id) ?? "").filter((text) => text !== "");
    this.#specialPattern = alternation(this.#specialTexts);
  }

  /**
   * Load the tokenizer of a model directory (tokenizer.json, and tokenizer_config.json if it is there).
   * Throws FILE_NOT_FOUND without tokenizer.json, FILE_INVALID for one that is malformed or of an unknown kind.
   */
  static async load(dir: string): Promise<Tokenizer> {
    const files = await readTokenizerFiles(dir);
    try {
      return new Tokenizer(files);
    } catch (error) {
      const nextStep = "Use a tokenizer.json written by the tokenizers library (BPE, Unigram or WordPiece).";
      throw PrecisError.from(error, "FILE_INVALID", `Cannot build a tokenizer from ${dir}/tokenizer.json`, nextStep);
    }
  }

  /** The token ids of `text`. Characters that the vocabulary cannot express become its unknown token, if it has one. */
  encode(text: string, { addSpecialTokens = true, allowSpecial = true }: EncodeOptions = {}): number[] {
    if (typeof text !== "string") {
      throw new PrecisError("INPUT_INVALID", `Only a string can be tokenized, not ${typeof text}.`, {
        value: text,
        nextStep: "Pass the text itself; render messages with a ChatTemplate first.",
      });
    }
    if (allowSpecial && !STAND_IN.test(text)) {
      const { ids } = this.#library.encode(text, { add_special_tokens: addSpecialTokens });
      return ids.filter((id) => id !== undefined);
    }
    const tokens = allowSpecial ? this.#tokenizeShielded(text) : this.#tokenizePlain(text);
    const processor = addSpecialTokens ? this.#library.post_processor : null;
    const processed = processor === null ? tokens : processor.post_process(tokens, null, true).tokens;
    const unknown = this.#library.model.unk_token_id;
    return processed.map((token) => this.tokenToId(token) ?? unknown).filter((id) => id !== undefined);
  }

  /**
   * The text of `ids`, exactly as the model spells it: no clean-up of spaces before punctuation. Ids outside the
   * vocabulary (padding rows of an embedding table) add nothing.
   */
  decode(ids: readonly number[], { skipSpecialTokens = false }: DecodeOptions = {}): string {
    const shown = ids.filter((id) => this.#isShown(id, skipSpecialTokens));
    // The library refuses an empty list, and with its own skipping also trims text, which a stream could not follow.
    return shown.length === 0 ? "" : this.#library.decode(shown, { clean_up_tokenization_spaces: false });
  }

  /** The id of exactly this token, or undefined. */
  tokenToId(token: string): number | undefined {
    return this.#library.token_to_id(token);
  }

  /** The vocabulary's spelling of `id` (byte-level alphabet, `▁` and so on included), or undefined. */
  idToToken(id: number): string | undefined {
    return this.#library.id_to_token(id);
  }

  /** Whether `id` was added to the trained vocabulary (special tokens, tool markers, …). */
  isAdded(id: number): boolean {
    return this.#addedIds.has(id);
  }

  /**
   * Make text of a user safe to put into a chat template: every special token's text is replaced by a stand-in, which
   * {@link Tokenizer.encode} turns into ordinary tokens of that same text. The result is for `encode`, not for people.
   * @example template.render([{ role: "user", content: tokenizer.shield(untrusted) }])
   */
  shield(untrusted: string): string {
    if (this.#specialPattern === undefined) return untrusted;
    return untrusted.replace(this.#specialPattern, (text) => `\uFDD0${this.#specialTexts.indexOf(text)}\uFDD1`);
  }

  #isShown(id: number, skipSpecialTokens: boolean): boolean {
    return this.idToToken(id) !== undefined && !(skipSpecialTokens && this.specialIds.has(id));
  }

  #configuredId(key: (typeof SPECIAL_TOKEN_KEYS)[number]): number | undefined {
    const text = specialTokenText(this.#files.config[key]);
    return text === undefined ? undefined : this.tokenToId(text);
  }

  #findSpecialIds(): Set<number> {
    const { definition, config } = this.#files;
    const ids = new Set(definition.added_tokens.filter(({ special }) => special === true).map(({ id }) => id));
    const extra = Array.isArray(config.additional_special_tokens) ? config.additional_special_tokens : [];
    const named = [...SPECIAL_TOKEN_KEYS.map((key) => config[key]), ...extra].map(specialTokenText);
    for (const text of named) {
      const id = text === undefined ? undefined : this.tokenToId(text);
      if (id !== undefined) ids.add(id);
    }
    return ids;
  }

  #tokenizePlain(text: string): string[] {
    this.#plainLibrary ??= createLibraryTokenizer(
      withoutSpecialTokens(this.#files.definition, new Set(this.#specialTexts)),
      this.#files.config,
    );
    return this.#plainLibrary.tokenize(text, { add_special_tokens: false });
  }

  #tokenizeShielded(text: string): string[] {
    return text.split(STAND_IN).flatMap((part, i) => {
      if (part === "") return [];
      // Splitting by a pattern with one group puts what the group matched at the odd places.
      if (i % 2 === 0) return this.#library.tokenize(part, { add_special_tokens: false });
      return this.#tokenizePlain(this.#specialTexts[Number(part)] ?? part);
    });
  }
}

/** A pattern for any of `texts`, the longest first, or undefined for none. */
function alternation(texts: readonly string[]): RegExp | undefined {
  if (texts.length === 0) return undefined;
  const longestFirst = [...texts].sort((a, b) => b.length - a.length);
  return new RegExp(longestFirst.map((text) => text.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|"), "g");
}
