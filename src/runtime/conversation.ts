/** @file Turns what users give (text, messages, ids) into token ids, piece by piece as a conversation grows. */
import { PrecisError } from "../errors.js";
import type { ConversationState, ToldTools } from "../memory/snapshot-header.js";
import type { ChatMessage, RenderOptions } from "../text/chat-template.js";
import type { Span } from "../sentinel/sentinel-tokens.js";
import { readMarkedIds, readMarkedText, SPAN_CLOSE, SPAN_OPEN, type MarkedIds } from "../text/span-markers.js";
import { toolText } from "../tools/call-format.js";
import type { ToolDefinition } from "../tools/tool.js";
import type { LoadedModel } from "./loaded-model.js";
import type { MemoryInput } from "./protocol.js";
import { templateMessage, templateTools } from "./template-messages.js";

/** What an input comes down to. */
export interface ReadInput {
  ids: number[];
  messages: ChatMessage[];
  /** Spans that the input marks. */
  marks: Span[];
  /** What the model has been told of tools after it. */
  told: ToldTools | undefined;
}

/** Messages kept for rendering the next ones; templates look at neighbours, not at the distant past. */
const KEPT_MESSAGES = 8;

/** Splits an input into what it is; an empty list counts as no ids. */
function isMessages(input: MemoryInput): input is readonly ChatMessage[] {
  if (typeof input === "string" || !Array.isArray(input) || typeof input[0] === "number" || input.length === 0)
    return false;
  for (const item of input as readonly unknown[]) {
    const message = item as Partial<ChatMessage> | null;
    const calls = message?.toolCalls ?? [];
    const isComplete = Array.isArray(calls) && calls.every((call) => typeof call?.arguments === "string");
    if (typeof message?.role !== "string" || typeof message.content !== "string" || !isComplete) {
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
  /** What the model has been told of tools. */
  told: ToldTools | undefined;
  /** Whether `<CL>` and `<CR>` mark spans; else they are ordinary text. */
  readonly #readsMarks: boolean;

  constructor(model: LoadedModel, readsMarks = false, state?: ConversationState) {
    this.#model = model;
    this.#readsMarks = readsMarks;
    this.messages = [...(state?.messages ?? [])];
    this.started = state?.started ?? false;
    this.told = state?.told;
  }

  /** What a snapshot keeps of it. */
  get state(): ConversationState {
    const { messages, started, told } = this;
    return { messages, started, ...(told === undefined ? {} : { told }) };
  }

  /** The time steps of an input: one per message, else one. Does not change the conversation. */
  steps(given: MemoryInput, tools?: readonly ToolDefinition[]): ReadInput[] {
    if (!isMessages(given)) return [this.#plain(given)];
    const { input, told } = this.#introduce(given, tools);
    const steps: ReadInput[] = [];
    const previous = [...this.messages];
    let pending: ChatMessage[] = [];
    let failure: unknown;
    for (const message of input) {
      pending.push(message);
      try {
        const { ids, spans: marks } = this.#rendered(pending, previous, told, false);
        previous.push(...pending);
        if (ids.length > 0) steps.push({ ids, messages: pending, marks, told });
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
  prompt(given: MemoryInput, tools?: readonly ToolDefinition[]): ReadInput {
    if (!isMessages(given)) return this.#plain(given);
    const { input, told } = this.#introduce(given, tools);
    const { ids, spans: marks } = this.#rendered(input, this.messages, told, true);
    return { ids, messages: [...input], marks, told };
  }

  /** The ids that the template puts after an answer, given the messages that it answered. */
  closing({ messages: asked, told }: Pick<ReadInput, "messages" | "told">, answer: string): number[] {
    const { template, tokenizer } = this.#template();
    const shield = (messages: readonly ChatMessage[]): ChatMessage[] => this.#shielded(messages);
    const previous = shield([...this.messages, ...asked]);
    const reply = { role: "assistant", content: answer };
    const whole = template.renderTurn(shield([reply]), previous, this.#variables(told));
    const at = whole.lastIndexOf(shield([reply])[0]?.content ?? "");
    return at < 0 ? [] : tokenizer.encode(whole.slice(at + answer.length), { addSpecialTokens: false });
  }

  /** Notes that messages were taken in. */
  remember(messages: readonly ChatMessage[], told: ToldTools | undefined = this.told): void {
    this.started = true;
    this.told = told;
    const all = [...this.messages, ...messages];
    const system = all[0]?.role === "system" ? all.slice(0, 1) : [];
    const rest = all.slice(system.length);
    // Roles alternate, so an even number is cut and the kept part begins as the conversation did.
    const excess = Math.max(0, rest.length - KEPT_MESSAGES);
    this.messages = [...system, ...rest.slice(excess + (excess % 2))];
  }

  fork(): Conversation {
    return new Conversation(this.#model, this.#readsMarks, this.state);
  }

  /**
   * An input with what the model is to know of tools: told by the template if it can and nothing was said yet, else in
   * words of the system. What it knows already is not told again.
   */
  #introduce(
    input: readonly ChatMessage[],
    tools: readonly ToolDefinition[] = [],
  ): { input: readonly ChatMessage[]; told: ToldTools | undefined } {
    const known = JSON.stringify(tools);
    if (tools.length === 0 || this.told?.known === known) return { input, told: this.told };
    const { template } = this.#template();
    if (template.reads.tools && !this.started) return { input, told: { known, rendered: known } };
    const told = { ...this.told, known };
    const text = toolText(tools);
    const [first, ...others] = input;
    if (!this.started && first?.role === "system") {
      return { input: [{ ...first, content: `${first.content}\n\n${text}` }, ...others], told };
    }
    return { input: [{ role: "system", content: text }, ...input], told };
  }

  /** Variables of the template. */
  #variables(told: ToldTools | undefined): RenderOptions {
    const rendered = told?.rendered;
    return rendered === undefined ? {} : { variables: { tools: templateTools(rendered, this.#template().tokenizer) } };
  }

  #plain(input: Exclude<MemoryInput, readonly ChatMessage[]>): ReadInput {
    const { ids, spans: marks } = typeof input === "string" ? this.#textIds(input) : this.#givenIds(input);
    return { ids: this.#nonEmpty(ids), messages: [], marks, told: this.told };
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
    told: ToldTools | undefined,
    addGenerationPrompt: boolean,
  ): MarkedIds {
    const { template, tokenizer } = this.#template();
    const options = { ...this.#variables(told), addGenerationPrompt };
    const text = template.renderTurn(this.#shielded(messages), this.#shielded(previous), options);
    return this.#marked(text, (piece) => tokenizer.encode(piece, { addSpecialTokens: false }));
  }

  /** Messages whose text cannot pass for the template's own control tokens. */
  #shielded(messages: readonly ChatMessage[]): ChatMessage[] {
    const { template, tokenizer } = this.#template();
    return messages.map((message) => templateMessage(message, template.reads, tokenizer));
  }

  #template(): { template: NonNullable<LoadedModel["template"]>; tokenizer: NonNullable<LoadedModel["tokenizer"]> } {
    const { template, tokenizer } = this.#model;
    if (template !== undefined && tokenizer !== undefined) return { template, tokenizer };
    throw new PrecisError("TEMPLATE_FAILED", "This model has no chat template.", {
      nextStep: "Pass text or token ids instead of messages.",
    });
  }
}
