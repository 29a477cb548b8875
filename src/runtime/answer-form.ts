/** @file The form of one answer: which tokens it may go on with, which parts of it are calls, and when it is complete. */
import { Constraint } from "../grammar/constraint.js";
import { answerGrammar, callGrammar, type ResponseFormat } from "../tools/answer-grammar.js";
import { CALL_OPEN } from "../tools/call-format.js";
import { CallParser, type AnswerPart } from "../tools/call-parser.js";
import type { ToolCall, ToolSetup } from "../tools/tool.js";
import type { LoadedModel } from "./loaded-model.js";
import type { AllowedTokens } from "./sampler.js";

const encoder = new TextEncoder();

/** What an answer is asked to be. */
export interface FormOptions {
  responseFormat?: ResponseFormat | undefined;
  setup?: ToolSetup | undefined;
}

/** Follows one answer. A free answer is held to a format as soon as it begins a call, and until the call ends. */
export class AnswerForm {
  readonly #model: LoadedModel;
  readonly #setup: ToolSetup | undefined;
  readonly #parser: CallParser | undefined;
  /** What the whole answer is held to. */
  readonly #whole: Constraint | undefined;
  /** What a call of a free answer is held to. */
  #call: Constraint | undefined;
  #wasInCall = false;

  /** @throws SCHEMA_UNSUPPORTED, OPTION_INVALID, and MODEL_UNSUPPORTED for tokenizers whose tokens have no text of their own */
  constructor(model: LoadedModel, { responseFormat, setup }: FormOptions) {
    this.#model = model;
    this.#setup = setup;
    this.#parser = setup && new CallParser(setup.tools.map(({ name }) => name));
    const isFree = (responseFormat?.type ?? "text") === "text" && (setup?.choice ?? "auto") === "auto";
    if (isFree) return;
    const key = JSON.stringify(["answer", responseFormat, setup]);
    // Where an answer is held to something there is a grammar.
    const grammar = model.grammar(
      key,
      () => answerGrammar(responseFormat, setup) as NonNullable<ReturnType<typeof answerGrammar>>,
    );
    this.#whole = new Constraint(grammar);
  }

  /** Tokens that may come next; undefined for all. @param ends those that end the answer */
  allowed(ends: Iterable<number>): AllowedTokens | undefined {
    const constraint = this.#whole ?? this.#call;
    return constraint && { mask: constraint.allowed(), more: constraint.mayEnd ? ends : [] };
  }

  /** Takes a token that was chosen. */
  accept(id: number): void {
    (this.#whole ?? this.#call)?.accept(id);
    if (this.#call?.mustEnd === true) this.#call = undefined;
  }

  /**
   * Takes the text that came with a token.
   * @param text what surely is part of the answer
   * @param written all text so far, also what may become a stop string
   */
  read(text: string, written: string): AnswerPart[] {
    if (this.#parser === undefined) return text === "" ? [] : [{ type: "text", text }];
    const parts = this.#parser.push(text);
    const { inCall } = this.#parser;
    if (inCall && !this.#wasInCall && this.#whole === undefined) this.#hold(written);
    if (!inCall) this.#call = undefined;
    this.#wasInCall = inCall;
    return parts;
  }

  /** Ends the answer. @param cut whether it was cut off */
  end(cut: boolean): AnswerPart[] {
    return this.#parser?.end(cut) ?? [];
  }

  /** Whether nothing can follow, or is wanted to. */
  get isOver(): boolean {
    if (this.#whole?.mustEnd === true) return true;
    const isClosed = this.#parser !== undefined && this.#parser.calls.length > 0 && !this.#parser.inCall;
    return isClosed && this.#setup?.parallel === false;
  }

  get calls(): ToolCall[] {
    return this.#parser?.calls ?? [];
  }

  /** Holds a call to its grammar, unless the token that opened it went on with something else already. */
  #hold(written: string): void {
    const setup = this.#setup as ToolSetup;
    const grammar = this.#model.grammar(JSON.stringify(["call", setup]), () => callGrammar(setup));
    const constraint = new Constraint(grammar, { atStart: false });
    const opened = written.slice(written.lastIndexOf(CALL_OPEN) + CALL_OPEN.length);
    this.#call = constraint.read(encoder.encode(opened)) ? constraint : undefined;
  }
}
