/** @file Holds one answer to a grammar, token by token. */
import { PrecisError } from "../errors.js";
import { Automaton, type State } from "./automaton.js";
import type { Program } from "./program.js";
import type { Vocabulary } from "./vocabulary.js";

/** Bytes of masks that one grammar keeps. */
const MASK_BYTES = 8 * 2 ** 20;

const SPACE = 0x20;

/** A grammar over the tokens of one vocabulary, shared by all answers that are held to it. */
export class TokenGrammar {
  readonly vocabulary: Vocabulary;
  readonly automaton: Automaton;
  readonly #masks = new Map<string, Uint32Array>();

  constructor(program: Program, vocabulary: Vocabulary) {
    this.automaton = new Automaton(program);
    this.vocabulary = vocabulary;
  }

  /** One bit per token, set for those that may follow; worked out once per situation. */
  mask(state: State): Uint32Array {
    const key = this.automaton.maskKey(state, this.vocabulary.longest);
    let mask = this.#masks.get(key);
    if (mask === undefined) {
      mask = this.vocabulary.mask(this.automaton, state);
      if (this.#masks.size * mask.byteLength >= MASK_BYTES) this.#masks.clear();
      this.#masks.set(key, mask);
    }
    return mask;
  }
}

/** How far one answer has come. */
export class Constraint {
  readonly #grammar: TokenGrammar;
  #state: State;
  /** Masks of a beginning from which decoding drops a space are nobody else's. */
  #isPadded: boolean;

  /**
   * @param options.atStart whether the answer's first token comes next, from which some tokenizers' decoding drops a space
   */
  constructor(grammar: TokenGrammar, { atStart = true }: { atStart?: boolean } = {}) {
    this.#grammar = grammar;
    const { start } = grammar.automaton;
    this.#isPadded = atStart && grammar.vocabulary.leadingSpaces > 0;
    this.#state = this.#isPadded ? padded(start) : start;
  }

  /** One bit per token, set for those that may come next. Ending tokens are not among them, see {@link Constraint.mayEnd}. */
  allowed(): Uint32Array {
    const { vocabulary, automaton } = this.#grammar;
    const mask = this.#isPadded ? vocabulary.mask(automaton, this.#state) : this.#grammar.mask(this.#state);
    if (this.#state.accepting || mask.some((word) => word !== 0)) return mask;
    throw new PrecisError("MODEL_UNSUPPORTED", "The model has no token for what the format needs next.", {
      nextStep: "Use a model with a byte-level tokenizer, or a format without rare characters.",
    });
  }

  /** Whether the answer is complete. */
  get mayEnd(): boolean {
    return this.#state.accepting;
  }

  /** Whether the answer is complete and nothing can follow. */
  get mustEnd(): boolean {
    return this.#state.accepting && this.#state.threads.length === 0;
  }

  /** Takes a token. @throws ENGINE_FAILED for one that is not allowed */
  accept(id: number): void {
    if (this.read(this.#grammar.vocabulary.textOf(id) ?? [])) return;
    throw new PrecisError("ENGINE_FAILED", `Token ${id} does not fit the format.`, { value: id });
  }

  /** Takes bytes; false, with nothing taken, where they do not fit. */
  read(bytes: Iterable<number>): boolean {
    const next = this.#grammar.automaton.read(this.#state, bytes);
    if (next === null) return false;
    this.#state = next;
    this.#isPadded = false;
    return true;
  }
}

/** A state that also allows one space before what it allows. */
function padded(state: State): State {
  const next: State["next"] = [];
  next[SPACE] = state;
  return { ...state, next };
}
