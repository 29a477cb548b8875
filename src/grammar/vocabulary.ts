/** @file The texts of all tokens of a vocabulary as one tree, to find quickly which of them a grammar allows. */
import { PrecisError } from "../errors.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { Automaton, State } from "./automaton.js";

const encoder = new TextEncoder();

/** Tokens with text, as a tree of bytes. Special tokens and those without text are not in it. */
export class Vocabulary {
  /** Number of logits. */
  readonly size: number;
  /** Bytes of the longest token. */
  readonly longest: number;
  /** Spaces that decoding drops from the very beginning of a text. */
  readonly leadingSpaces: number;
  readonly #texts: ReadonlyMap<number, Uint8Array>;
  // The nodes of the tree, each before what is below it: its last byte, its depth, the node after its subtree, its token.
  readonly #bytes: Uint8Array;
  readonly #depths: Uint16Array;
  readonly #skips: Int32Array;
  readonly #tokens: Int32Array;
  /** Further tokens of the same text as another one. */
  readonly #twins: ReadonlyMap<number, readonly number[]>;

  private constructor(texts: ReadonlyMap<number, Uint8Array>, size: number, leadingSpaces: number) {
    this.size = size;
    this.leadingSpaces = leadingSpaces;
    this.#texts = texts;
    const sorted = [...texts].sort(([, a], [, b]) => Buffer.compare(a, b));
    this.longest = sorted.reduce((most, [, text]) => Math.max(most, text.length), 0);
    const [bytes, depths, tokens]: [number[], number[], number[]] = [[], [], []];
    const twins = new Map<number, number[]>();
    let before = new Uint8Array(0);
    for (const [id, text] of sorted) {
      let shared = 0;
      while (shared < before.length && before[shared] === text[shared]) shared++;
      for (let depth = shared; depth < text.length; depth++) {
        bytes.push(text[depth] as number);
        depths.push(depth);
        tokens.push(depth === text.length - 1 ? id : -1);
      }
      if (shared === text.length) {
        const first = tokens.at(-1) as number;
        twins.set(first, [...(twins.get(first) ?? []), id]);
      }
      before = Uint8Array.from(text);
    }
    this.#bytes = Uint8Array.from(bytes);
    this.#depths = Uint16Array.from(depths);
    this.#tokens = Int32Array.from(tokens);
    this.#skips = subtreeEnds(depths);
    this.#twins = twins;
  }

  /**
   * The vocabulary of a model.
   * @param size number of logits, which may be more than the tokenizer has tokens
   * @param ends tokens that end a text, whatever text they have
   * @throws MODEL_UNSUPPORTED where what a token adds to a text depends on its neighbours
   */
  static of(tokenizer: Tokenizer | undefined, size: number, ends: ReadonlySet<number>): Vocabulary {
    const rules = tokenizer?.pieceRules;
    if (tokenizer === undefined || rules === undefined) {
      throw new PrecisError("MODEL_UNSUPPORTED", "Answers of this model's tokenizer cannot be held to a format.", {
        nextStep: "Ask for the format in a message, or use a model with a byte-level or SentencePiece tokenizer.",
      });
    }
    const texts = new Map<number, Uint8Array>();
    for (let id = 0; id < Math.min(size, tokenizer.vocabSize); id++) {
      const token = tokenizer.idToToken(id);
      if (token === undefined || tokenizer.specialIds.has(id) || ends.has(id)) continue;
      const piece = tokenizer.isAdded(id) ? rules.addedPieceOf(token) : rules.pieceOf(token);
      const text = typeof piece === "string" ? encoder.encode(piece) : piece;
      if (text.length > 0) texts.set(id, text);
    }
    const { text, count } = rules.strip;
    return new Vocabulary(texts, size, text === " " ? count : 0);
  }

  /** The bytes of a token; none for one that has no text. */
  textOf(id: number): Uint8Array | undefined {
    return this.#texts.get(id);
  }

  /** One bit for each token, set for those whose text may follow. */
  mask(automaton: Automaton, state: State): Uint32Array {
    const mask = new Uint32Array(Math.ceil(this.size / 32));
    const allow = (id: number): void => {
      mask[id >>> 5] = (mask[id >>> 5] as number) | (1 << (id & 31));
    };
    const path: State[] = [state];
    for (let node = 0; node < this.#bytes.length;) {
      const depth = this.#depths[node] as number;
      const next = automaton.step(path[depth] as State, this.#bytes[node] as number);
      if (next === null) {
        node = this.#skips[node] as number;
        continue;
      }
      path[depth + 1] = next;
      const token = this.#tokens[node] as number;
      if (token >= 0) {
        allow(token);
        this.#twins.get(token)?.forEach(allow);
      }
      node++;
    }
    return mask;
  }
}

/** For each node the first one after it that is not below it. */
function subtreeEnds(depths: readonly number[]): Int32Array {
  const ends = new Int32Array(depths.length).fill(depths.length);
  const open: number[] = [];
  for (const [node, depth] of depths.entries()) {
    for (let last = open.at(-1); last !== undefined && (depths[last] as number) >= depth; last = open.at(-1)) {
      ends[last] = node;
      open.pop();
    }
    open.push(node);
  }
  return ends;
}
