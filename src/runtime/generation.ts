/** @file One answer in the making: sampling, detokenising, and knowing when to stop. */
import { performance } from "node:perf_hooks";
import { PrecisError } from "../errors.js";
import type { MemorySession } from "../memory/session.js";
import { StreamingDetokenizer } from "../text/detokenizer.js";
import { StopMatcher } from "../text/stop-strings.js";
import type { LoadedModel } from "./loaded-model.js";
import type { FinishReason, GenerateOptions, GenerationEvent } from "./protocol.js";
import { Sampler, type Sample } from "./sampler.js";

/** How a caller may interrupt: `abort` forgets the answer, `stop` keeps what there is. */
export interface Interruption {
  requested: "abort" | "stop" | undefined;
}

/** Throws ABORTED if that was asked for. */
export function throwIfAborted(interruption: Interruption): void {
  if (interruption.requested === "abort") throw new PrecisError("ABORTED", "The work was cancelled.");
}

/** State of one generation between decoding steps. */
export class Generation {
  readonly session: MemorySession;
  readonly interruption: Interruption;
  /** Chosen tokens, an ending one excluded. */
  readonly tokenIds: number[] = [];
  text = "";
  finished: FinishReason | undefined;
  #nextId = -1;
  readonly #sampler: Sampler;
  readonly #detokenizer: StreamingDetokenizer | undefined;
  readonly #stops: StopMatcher;
  readonly #eosIds: ReadonlySet<number>;
  readonly #maxTokens: number;
  readonly #emit: (event: GenerationEvent) => void;
  #firstTokenAt = 0;

  constructor(
    model: LoadedModel,
    session: MemorySession,
    inputIds: readonly number[],
    options: GenerateOptions,
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
    const sample = this.#sampler.sample(logits);
    if (this.#eosIds.has(sample.id)) return this.#finish("end");
    this.tokenIds.push(sample.id);
    this.#nextId = sample.id;
    const { emit, stopped } = this.#stops.push(this.#detokenizer?.push(sample.id) ?? "");
    this.#deliver(emit, sample);
    if (stopped !== undefined) this.finished = "stop-string";
    else if (this.tokenIds.length >= this.#maxTokens) this.#finish("length");
  }

  #deliver(text: string, sample?: Sample): void {
    this.text += text;
    this.#emit({
      type: "text-delta",
      text,
      tokenId: sample?.id,
      ...(sample?.logprob === undefined ? {} : { logprob: sample.logprob, topLogprobs: sample.top ?? [] }),
    });
  }

  /** Ends the answer and delivers text that was held back. */
  #finish(reason: FinishReason): void {
    this.finished = reason;
    const { emit, stopped } = this.#stops.push(this.#detokenizer?.flush() ?? "");
    const rest = stopped === undefined ? emit + this.#stops.flush() : emit;
    if (rest !== "") this.#deliver(rest);
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
