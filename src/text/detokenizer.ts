/** @file Token ids to text while they are being generated. */

import { TextDecoder } from "node:util";
import type { DecodeOptions, Tokenizer } from "./tokenizer.js";
import type { PieceRules, TokenPiece } from "./token-pieces.js";

/** One strategy of turning ids, one at a time, into text. */
interface TextStream {
  push(id: number): string;
  flush(): string;
}

/**
 * Text of a growing list of ids, in constant time per id. All that `push` and `flush` return, joined, is
 * `tokenizer.decode(ids)`; text of a character that is not complete yet is held back.
 * @example
 * const stream = new StreamingDetokenizer(tokenizer, { skipSpecialTokens: true });
 * for await (const id of ids) process.stdout.write(stream.push(id));
 * process.stdout.write(stream.flush());
 */
export class StreamingDetokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecialTokens: boolean;
  #stream: TextStream;

  constructor(tokenizer: Tokenizer, { skipSpecialTokens = false }: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = skipSpecialTokens;
    this.#stream = startStream(tokenizer);
  }

  /** Add an id; returns the text that it completes, `""` while a multi-byte character is incomplete. */
  push(id: number): string {
    if (this.#tokenizer.idToToken(id) === undefined) return "";
    if (this.#skipSpecialTokens && this.#tokenizer.specialIds.has(id)) return "";
    return this.#stream.push(id);
  }

  /** End the text: returns what was held back (U+FFFD for a character that never completed) and starts a new text. */
  flush(): string {
    const rest = this.#stream.flush();
    this.#stream = startStream(this.#tokenizer);
    return rest;
  }
}

function startStream(tokenizer: Tokenizer): TextStream {
  const rules = tokenizer.pieceRules;
  return rules === undefined ? new NeighbourStream(tokenizer) : new PieceStream(tokenizer, rules);
}

/** For decoders with {@link PieceRules}: bytes run through one incremental UTF-8 decoder. */
class PieceStream implements TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #rules: PieceRules;
  readonly #utf8: TextDecoder;
  #stripLeft: number;

  constructor(tokenizer: Tokenizer, rules: PieceRules) {
    this.#tokenizer = tokenizer;
    this.#rules = rules;
    this.#utf8 = new TextDecoder("utf-8", { ignoreBOM: rules.keepsByteOrderMark });
    this.#stripLeft = rules.strip.count;
  }

  push(id: number): string {
    const piece = this.#pieceOf(id);
    // Whole text ends a run of bytes, complete or not, as it does when everything is decoded at once.
    const text = typeof piece === "string" ? this.#utf8.decode() + piece : this.#utf8.decode(piece, { stream: true });
    const stripped = this.#strip(text);
    if (this.#rules.strip.firstTokenOnly) this.#stripLeft = 0;
    return stripped;
  }

  flush(): string {
    return this.#strip(this.#utf8.decode());
  }

  #pieceOf(id: number): TokenPiece {
    const token = this.#tokenizer.idToToken(id) ?? "";
    return this.#tokenizer.isAdded(id) ? this.#rules.addedPieceOf(token) : this.#rules.pieceOf(token);
  }

  #strip(text: string): string {
    const { strip } = this.#rules;
    let rest = text;
    while (this.#stripLeft > 0 && rest !== "") {
      if (!rest.startsWith(strip.text)) {
        this.#stripLeft = 0;
        break;
      }
      rest = rest.slice(strip.text.length);
      this.#stripLeft--;
    }
    return rest;
  }
}

/** For decoders that look at neighbours (WordPiece, `</w>` suffixes): a token's text is what it adds to the one before. */
class NeighbourStream implements TextStream {
  readonly #tokenizer: Tokenizer;
  #previous: number | undefined;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  push(id: number): string {
    const context = this.#previous === undefined ? [] : [this.#previous];
    this.#previous = id;
    return this.#tokenizer.decode([...context, id]).slice(this.#tokenizer.decode(context).length);
  }

  flush(): string {
    return "";
  }
}
