/** @file A language model of the server. With a session, calls send the new turn only; all else is OpenAI's chat API. */
import type {
  LanguageModelV3,
  LanguageModelV3CallOptions,
  LanguageModelV3GenerateResult,
  LanguageModelV3StreamResult,
  SharedV3ProviderOptions,
} from "@ai-sdk/provider";
import { errorCode, failingStream } from "./errors.js";
import { newTurn } from "./new-turn.js";
import { PROVIDER, readOptions, setupFields, type PrecisModelOptions } from "./options.js";
import type { PrecisSessions } from "./sessions.js";

/** What a model needs beside the client of OpenAI's API. */
export interface ChatModelParts {
  /** Sends chat requests; fields of `providerOptions.precis` go into the body as they are. */
  inner: LanguageModelV3;
  sessions: PrecisSessions;
  /** Whether a session that is not there is made. */
  createSessions: boolean;
  /** Where requests go, for errors. */
  url: string;
}

type Send<Result> = (options: LanguageModelV3CallOptions) => PromiseLike<Result>;

/** A {@link LanguageModelV3} whose sessions remember. */
export class PrecisChatModel implements LanguageModelV3 {
  readonly specificationVersion = "v3" as const;
  readonly provider: string = PROVIDER;
  readonly modelId: string;
  readonly supportedUrls: Record<string, RegExp[]> = {};
  readonly #parts: ChatModelParts;

  constructor(modelId: string, parts: ChatModelParts) {
    this.modelId = modelId;
    this.#parts = parts;
  }

  /** @throws APICallError for what the server refuses, InvalidArgumentError for options that we do not know */
  async doGenerate(options: LanguageModelV3CallOptions): Promise<LanguageModelV3GenerateResult> {
    return this.#call(options, (sent) => this.#parts.inner.doGenerate(sent));
  }

  /** @throws as {@link PrecisChatModel.doGenerate}; what fails later is an `error` part with an APICallError */
  async doStream(options: LanguageModelV3CallOptions): Promise<LanguageModelV3StreamResult> {
    const { inner, url } = this.#parts;
    const result = await this.#call(options, (sent) => inner.doStream(sent));
    const failing = failingStream({ url, body: result.request?.body }, result.response?.headers);
    return { ...result, stream: result.stream.pipeThrough(failing) };
  }

  async #call<Result>(options: LanguageModelV3CallOptions, send: Send<Result>): Promise<Result> {
    const own = await readOptions(options.providerOptions);
    const { session } = own;
    if (session === undefined) return send(requestOf(options, own));
    const turn = { ...options, prompt: newTurn(options.prompt) };
    try {
      return await send(requestOf(turn, own));
    } catch (error) {
      if (!this.#parts.createSessions || errorCode(error) !== "session_not_found") throw error;
    }
    // A session that is made now has seen nothing of the conversation. One that somebody made meanwhile goes on.
    const isNew = await this.#create(session, own, options);
    return send(requestOf(isNew ? options : turn, own));
  }

  /** Makes a session. @returns false if somebody else did at the same time */
  async #create(id: string, { memory }: PrecisModelOptions, options: LanguageModelV3CallOptions): Promise<boolean> {
    const { abortSignal } = options;
    try {
      await this.#parts.sessions.create({ id, model: this.modelId, memory }, { abortSignal });
      return true;
    } catch (error) {
      if (errorCode(error) === "session_exists") return false;
      throw error;
    }
  }
}

/** A call as OpenAI's client is to send it, with our options by the server's names. */
function requestOf(
  { topK, ...options }: LanguageModelV3CallOptions,
  { session, memory, minP, repetitionPenalty, ignoreEos }: PrecisModelOptions,
): LanguageModelV3CallOptions {
  const fields = {
    session,
    // The memory of a session is decided when it is made.
    memory: session === undefined && memory !== undefined ? setupFields(memory) : undefined,
    top_k: topK,
    min_p: minP,
    repetition_penalty: repetitionPenalty,
    ignore_eos: ignoreEos,
  };
  const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
  return { ...options, providerOptions: { [PROVIDER]: given as SharedV3ProviderOptions[string] } };
}
