/** @file One answer in the making: sampling, detokenising, and knowing when to stop. */
import { performance } from "node:perf_hooks";
import { PrecisError } from "../errors.js";
import type { MemorySession } from "../memory/session.js";
import { StreamingDetokenizer } from "../text/detokenizer.js";
import { StopMatcher } from "../text/stop-strings.js";
import type { AnswerPart } from "../tools/call-parser.js";
import type { ToolCall } from "../tools/tool.js";
import { AnswerForm, type FormOptions } from "./answer-form.js";
import type { LoadedModel } from "./loaded-model.js";
import { throwIfAborted, type Interruption } from "./operation-context.js";
import type { FinishReason, GenerateOptions, GenerationEvent } from "./protocol.js";
import { Sampler, type Sample } from "./sampler.js";

/** State of one generation between decoding steps. */
export class Generation {
  readonly session: MemorySession;
  readonly interruption: Interruption;
  /** Chosen tokens, an ending one excluded. */
  readonly tokenIds: number[] = [];
  /** The answer without its calls, and as it was written. */
  text = "";
  rawText = "";
  finished: FinishReason | undefined;
  /** Whether the last token was not read by the model. */
  endsUnread = false;
  #nextId = -1;
  readonly #sampler: Sampler;
  readonly #detokenizer: StreamingDetokenizer | undefined;
  readonly #stops: StopMatcher;
  readonly #form: AnswerForm;
  /** All text of the tokens, a stop string included. */
  #written = "";
  readonly #eosIds: ReadonlySet<number>;
  readonly #maxTokens: number;
  readonly #emit: (event: GenerationEvent) => void;
  #firstTokenAt = 0;

  constructor(
    model: LoadedModel,
    session: MemorySession,
    inputIds: readonly number[],
    options: GenerateOptions & Pick<FormOptions, "setup">,
    interruption: Interruption,
    emit: (event: GenerationEvent) => void,
  ) {
    this.session = session;
    this.interruption = interruption;
    this.#emit = emit;
    this.#sampler = new Sampler(withDefaults(model.generationConfig, options), inputIds);
    this.#detokenizer =
      model.tokenizer === undefined
        ? undefined
        : new StreamingDetokenizer(model.tokenizer, { skipSpecialTokens: true });
    this.#stops = new StopMatcher(options.stop ?? []);
    this.#form = new AnswerForm(model, options);
    this.#eosIds = options.ignoreEos === true ? new Set() : model.eosIds();
    const configured = model.generationConfig["max_new_tokens"];
    this.#maxTokens = options.maxTokens ?? (typeof configured === "number" ? configured : 256);
    if (!Number.isInteger(this.#maxTokens) || this.#maxTokens < 1) {
      throw new PrecisError("OPTION_INVALID", `maxTokens must be a whole number from 1 on, not ${this.#maxTokens}.`);
    }
  }

  /** The token to run next. */
  get nextId(): number {
    return this.#nextId;
  }

  /** Milliseconds since the first token was chosen. */
  get elapsedMs(): number {
    return performance.now() - this.#firstTokenAt;
  }

  /** Takes the logits [vocab] after the last token: chooses the next one, or finishes. */
  accept(logits: Float32Array): void {
    if (this.tokenIds.length === 0) this.#firstTokenAt = performance.now();
    throwIfAborted(this.interruption);
    if (this.interruption.requested === "stop") return this.#finish("stopped");
    const sample = this.#sampler.sample(logits, this.#form.allowed(this.#eosIds));
    if (this.#eosIds.has(sample.id)) return this.#finish("end");
    this.tokenIds.push(sample.id);
    this.#nextId = sample.id;
    this.#form.accept(sample.id);
    const text = this.#detokenizer?.push(sample.id) ?? "";
    this.#written += text;
    const { emit, stopped } = this.#stops.push(text);
    this.#deliver(this.#read(emit), sample);
    this.endsUnread = true;
    if (stopped !== undefined) this.#end("stop-string");
    else if (this.#form.isOver) this.#finish("end");
    else if (this.tokenIds.length >= this.#maxTokens) this.#finish("length");
    else this.endsUnread = false;
  }

  /** Functions that the answer calls. */
  get toolCalls(): ToolCall[] {
    return this.#form.calls;
  }

  #read(text: string): AnswerPart[] {
    this.rawText += text;
    return this.#form.read(text, this.#written);
  }

  /** Passes on what came with a token, which has one event of text even if it only adds to a call. */
  #deliver(parts: readonly AnswerPart[], sample: Sample): void {
    const [first, ...others] = parts;
    const text = first?.type === "text" ? first.text : "";
    this.text += text;
    this.#emit({
      type: "text-delta",
      text,
      tokenId: sample.id,
      ...(sample.logprob === undefined ? {} : { logprob: sample.logprob, topLogprobs: sample.top ?? [] }),
    });
    this.#pass(first?.type === "text" ? others : parts);
  }

  #pass(parts: readonly AnswerPart[]): void {
    for (const part of parts) {
      if (part.type === "text") {
        this.text += part.text;
        this.#emit({ type: "text-delta", text: part.text, tokenId: undefined });
      } else if (part.type === "call") {
        this.#emit({ type: "tool-call", index: part.index, id: part.id, name: part.name });
      } else this.#emit({ type: "tool-call-delta", index: part.index, arguments: part.text });
    }
  }

  /** Ends the answer and passes on text that was held back. */
  #finish(reason: FinishReason): void {
    const { emit, stopped } = this.#stops.push(this.#detokenizer?.flush() ?? "");
    const rest = stopped === undefined ? emit + this.#stops.flush() : emit;
    if (rest !== "") this.#pass(this.#read(rest));
    this.#end(reason);
  }

  #end(reason: FinishReason): void {
    this.#pass(this.#form.end(reason !== "end"));
    this.finished = reason === "end" && this.toolCalls.length > 0 ? "tool-calls" : reason;
  }
}

/** Options with the model's own sampling defaults where the caller gave none. */
function withDefaults(config: Readonly<Record<string, unknown>>, options: GenerateOptions): GenerateOptions {
  const number = (field: string): number | undefined => (typeof config[field] === "number" ? config[field] : undefined);
  const samples = config["do_sample"] === true;
  return {
    ...options,
    temperature: options.temperature ?? (samples ? (number("temperature") ?? 1) : 0),
    topK: options.topK ?? (samples ? number("top_k") : undefined),
    topP: options.topP ?? (samples ? number("top_p") : undefined),
    repetitionPenalty: options.repetitionPenalty ?? number("repetition_penalty"),
  };
}
