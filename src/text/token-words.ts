/** @file Where words begin and sentences end in a stream of token ids, known without decoding what came before. */
import type { Tokenizer } from "./tokenizer.js";

/** What a token is to its neighbours. */
interface TokenShape {
  /** Whether the text of the token begins with white space. */
  opensWithSpace: boolean;
  /** Whether it is white space altogether. */
  blank: boolean;
  /** Whether a sentence may end with it. */
  endsSentence: boolean;
  /** Whether it has a line break. */
  breaksLine: boolean;
  /** Whether it is a control token of the model. */
  special: boolean;
  /** What it adds to the text. */
  text: string | undefined;
}

const NO_TEXT: TokenShape = {
  opensWithSpace: true,
  blank: false,
  endsSentence: false,
  breaksLine: false,
  special: false,
  text: undefined,
};

/** End marks of sentences, with quotes and brackets that may follow them. */
const SENTENCE_END = /[.!?…。！？]["'”’»)\]]*\s*$/u;

/**
 * Words and sentences over token ids. A word is what white space separates, with the white space before it. Without a
 * tokenizer, or where a token's text depends on its neighbours, every token counts as a word and no sentence ends.
 */
export class TokenWords {
  readonly #tokenizer: Tokenizer | undefined;
  readonly #shapes = new Map<number, TokenShape>();

  constructor(tokenizer?: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /** Whether `id` begins a word after the token `previous` (nothing, at the beginning). */
  startsWord(id: number, previous: number | undefined): boolean {
    const shape = this.#shape(id);
    if (previous === undefined || shape.special) return true;
    const before = this.#shape(previous);
    return before.special || (shape.opensWithSpace && !before.blank);
  }

  /** Whether a sentence is over after `last`, given that a word begins with `next`. */
  endsSentence(last: number, next: number): boolean {
    return this.#shape(last).endsSentence || this.#shape(next).breaksLine;
  }

  /** Whether `id` is a control token, such as the beginning of text or of a turn. */
  isSpecial(id: number): boolean {
    return this.#shape(id).special;
  }

  /** What `id` adds to the text; undefined if that depends on its neighbours. Bytes of parts of characters become U+FFFD. */
  textOf(id: number): string | undefined {
    return this.#shape(id).text;
  }

  /** Number of words in `ids`. */
  count(ids: readonly number[]): number {
    let words = 0;
    ids.forEach((id, index) => {
      if (this.startsWord(id, ids[index - 1])) words++;
    });
    return words;
  }

  /** Indices of `ids` at which words begin. */
  starts(ids: readonly number[]): number[] {
    return ids.flatMap((id, index) => (this.startsWord(id, ids[index - 1]) ? [index] : []));
  }

  #shape(id: number): TokenShape {
    let shape = this.#shapes.get(id);
    if (shape === undefined) {
      shape = this.#examine(id);
      this.#shapes.set(id, shape);
    }
    return shape;
  }

  #examine(id: number): TokenShape {
    const rules = this.#tokenizer?.pieceRules;
    const token = this.#tokenizer?.idToToken(id);
    const special = this.#tokenizer?.specialIds.has(id) === true;
    if (rules === undefined || token === undefined) return { ...NO_TEXT, special };
    const piece = this.#tokenizer?.isAdded(id) === true ? rules.addedPieceOf(token) : rules.pieceOf(token);
    // Parts of characters become replacement characters, which are neither space nor mark.
    const text = typeof piece === "string" ? piece : new TextDecoder().decode(piece);
    return {
      opensWithSpace: /^\s/u.test(text),
      blank: /^\s+$/u.test(text),
      endsSentence: SENTENCE_END.test(text),
      breaksLine: text.includes("\n"),
      special,
      text,
    };
  }
}
