/** @file Turns what users give (text, messages, ids) into token ids, piece by piece as a conversation grows. */
import { PrecisError } from "../errors.js";
import type { ChatMessage } from "../text/chat-template.js";
import type { Span } from "../sentinel/sentinel-tokens.js";
import { readMarkedIds, readMarkedText, SPAN_CLOSE, SPAN_OPEN, type MarkedIds } from "../text/span-markers.js";
import type { LoadedModel } from "./loaded-model.js";
import type { MemoryInput } from "./protocol.js";

/** What an input comes down to. */
export interface ReadInput {
  ids: number[];
  messages: ChatMessage[];
  /** Spans that the input marks. */
  marks: Span[];
}

/** Messages kept for rendering the next ones; templates look at neighbours, not at the distant past. */
const KEPT_MESSAGES = 8;

/** Splits an input into what it is; an empty list counts as no ids. */
function isMessages(input: MemoryInput): input is readonly ChatMessage[] {
  if (typeof input === "string" || !Array.isArray(input) || typeof input[0] === "number" || input.length === 0)
    return false;
  for (const item of input as readonly unknown[]) {
    const message = item as Partial<ChatMessage> | null;
    if (typeof message?.role !== "string" || typeof message.content !== "string") {
      throw invalidInput(`Not a message: ${JSON.stringify(item)?.slice(0, 100)}.`, item);
    }
  }
  return true;
}

function invalidInput(problem: string, value: unknown): PrecisError {
  return new PrecisError("INPUT_INVALID", problem, {
    value,
    nextStep: 'Pass text, token ids, or messages like { role: "user", content: "…" }.',
  });
}

/** The text side of one memory. */
export class Conversation {
  readonly #model: LoadedModel;
  /** The system message, if any, and the latest others. */
  messages: ChatMessage[];
  /** Whether anything was taken in, so that a beginning-of-text token goes in front only once. */
  started: boolean;
  /** Whether `<CL>` and `<CR>` mark spans; else they are ordinary text. */
  readonly #readsMarks: boolean;

  constructor(model: LoadedModel, readsMarks = false, messages: readonly ChatMessage[] = [], started = false) {
    this.#model = model;
    this.#readsMarks = readsMarks;
    this.messages = [...messages];
    this.started = started;
  }

  /** The time steps of an input: one per message, else one. Does not change the conversation. */
  steps(input: MemoryInput): ReadInput[] {
    if (!isMessages(input)) return [this.#plain(input)];
    const steps: ReadInput[] = [];
    const previous = [...this.messages];
    let pending: ChatMessage[] = [];
    let failure: unknown;
    for (const message of input) {
      pending.push(message);
      try {
        const { ids, spans: marks } = this.#rendered(pending, previous, false);
        previous.push(...pending);
        if (ids.length > 0) steps.push({ ids, messages: pending, marks });
        pending = [];
      } catch (error) {
        if (error instanceof PrecisError && error.code === "INPUT_INVALID") throw error;
        // Some templates render a system message only together with the user's next one.
        failure = error;
      }
    }
    if (pending.length > 0) throw failure;
    return steps;
  }

  /** The ids of an input that is to be answered: messages get the template's opening of an answer. */
  prompt(input: MemoryInput): ReadInput {
    if (!isMessages(input)) return this.#plain(input);
    const { ids, spans: marks } = this.#rendered(input, this.messages, true);
    return { ids, messages: [...input], marks };
  }

  /** The ids that the template puts after an answer, given the messages that it answered. */
  closing(asked: readonly ChatMessage[], answer: string): number[] {
    const { template, tokenizer } = this.#template();
    const shield = (messages: readonly ChatMessage[]): ChatMessage[] => this.#shielded(messages);
    const previous = shield([...this.messages, ...asked]);
    const reply = { role: "assistant", content: answer };
    const whole = template.renderTurn(shield([reply]), previous);
    const at = whole.lastIndexOf(shield([reply])[0]?.content ?? "");
    return at < 0 ? [] : tokenizer.encode(whole.slice(at + answer.length), { addSpecialTokens: false });
  }

  /** Notes that messages were taken in. */
  remember(messages: readonly ChatMessage[]): void {
    this.started = true;
    const all = [...this.messages, ...messages];
    const system = all[0]?.role === "system" ? all.slice(0, 1) : [];
    const rest = all.slice(system.length);
    // Roles alternate, so an even number is cut and the kept part begins as the conversation did.
    const excess = Math.max(0, rest.length - KEPT_MESSAGES);
    this.messages = [...system, ...rest.slice(excess + (excess % 2))];
  }

  fork(): Conversation {
    return new Conversation(this.#model, this.#readsMarks, this.messages, this.started);
  }

  #plain(input: Exclude<MemoryInput, readonly ChatMessage[]>): ReadInput {
    const { ids, spans: marks } = typeof input === "string" ? this.#textIds(input) : this.#givenIds(input);
    return { ids: this.#nonEmpty(ids), messages: [], marks };
  }

  #textIds(text: string): MarkedIds {
    const { tokenizer } = this.#model;
    if (tokenizer === undefined)
      throw invalidInput("This model has no tokenizer, so text cannot be read.", text.slice(0, 50));
    return this.#marked(text, (piece, isFirst) =>
      tokenizer.encode(piece, { addSpecialTokens: isFirst && !this.started }),
    );
  }

  #givenIds(ids: readonly number[]): MarkedIds {
    const marked = this.#readsMarks ? readMarkedIds(ids, this.#model.info.vocabSize) : { ids: [...ids], spans: [] };
    return { ...marked, ids: this.#checkedIds(marked.ids) };
  }

  /** The ids of text; `<CL>` and `<CR>` become spans where they are read. */
  #marked(text: string, encode: (piece: string, isFirst: boolean) => number[]): MarkedIds {
    const has = this.#readsMarks && (text.includes(SPAN_OPEN) || text.includes(SPAN_CLOSE));
    return has ? readMarkedText(text, encode) : { ids: encode(text, true), spans: [] };
  }

  #checkedIds(ids: readonly number[]): number[] {
    const { vocabSize } = this.#model.info;
    const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (bad !== undefined) throw invalidInput(`Token id ${bad} is outside the vocabulary of ${vocabSize}.`, bad);
    return this.#nonEmpty([...ids]);
  }

  #nonEmpty(ids: number[]): number[] {
    if (ids.length === 0) throw invalidInput("The input is empty.", []);
    return ids;
  }

  #rendered(
    messages: readonly ChatMessage[],
    previous: readonly ChatMessage[],
    addGenerationPrompt: boolean,
  ): MarkedIds {
    const { template, tokenizer } = this.#template();
    const text = template.renderTurn(this.#shielded(messages), this.#shielded(previous), { addGenerationPrompt });
    return this.#marked(text, (piece) => tokenizer.encode(piece, { addSpecialTokens: false }));
  }

  /** Messages whose text cannot pass for the template's own control tokens. */
  #shielded(messages: readonly ChatMessage[]): ChatMessage[] {
    const { tokenizer } = this.#template();
    return messages.map((message) => ({ ...message, content: tokenizer.shield(message.content) }));
  }

  #template(): { template: NonNullable<LoadedModel["template"]>; tokenizer: NonNullable<LoadedModel["tokenizer"]> } {
    const { template, tokenizer } = this.#model;
    if (template !== undefined && tokenizer !== undefined) return { template, tokenizer };
    throw new PrecisError("TEMPLATE_FAILED", "This model has no chat template.", {
      nextStep: "Pass text or token ids instead of messages.",
    });
  }
}
