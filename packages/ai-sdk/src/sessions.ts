/** @file Sessions by name: `/v1/sessions` of the server. */
import {
  combineHeaders,
  createJsonErrorResponseHandler,
  createJsonResponseHandler,
  getFromApi,
  postJsonToApi,
  type FetchFunction,
} from "@ai-sdk/provider-utils";
import { z } from "zod";
import { errorBody } from "./errors.js";
import { setupFields, type PrecisMemorySetup } from "./options.js";

/** A session as the server shows it; more fields than these are passed on as they come. */
export interface PrecisSession {
  id: string;
  model: string;
  method: string | null;
  /** Time steps so far. */
  step: number;
  /** Steps that the session can be turned back to. */
  checkpoints: { step: number; tokens_seen: number; bytes: number }[];
  metadata: Record<string, string>;
  [field: string]: unknown;
}

/** What every call may have. */
export interface SessionCallOptions {
  abortSignal?: AbortSignal | undefined;
}

/** Where and how to call. */
export interface SessionConnection {
  /** Ends with `/v1`. */
  baseURL: string;
  headers: Record<string, string | undefined>;
  fetch: FetchFunction | undefined;
}

const session: z.ZodType<PrecisSession> = z.looseObject({
  id: z.string(),
  model: z.string(),
  method: z.string().nullable(),
  step: z.number(),
  checkpoints: z.array(z.looseObject({ step: z.number(), tokens_seen: z.number(), bytes: z.number() })),
  metadata: z.record(z.string(), z.string()),
});

const failedResponseHandler = createJsonErrorResponseHandler({
  errorSchema: errorBody,
  errorToMessage: ({ error }) => error.message,
});

/** Makes, changes and deletes sessions. All methods throw APICallError for what the server refuses. */
export class PrecisSessions {
  readonly #connection: SessionConnection;

  constructor(connection: SessionConnection) {
    this.#connection = connection;
  }

  /** Makes a session. @param id default: a random one */
  create(
    {
      id,
      model,
      metadata,
      memory = {},
    }: { id?: string; model?: string; metadata?: Record<string, string>; memory?: PrecisMemorySetup } = {},
    options: SessionCallOptions = {},
  ): Promise<PrecisSession> {
    return this.#post("", { id, model, metadata, ...setupFields(memory) }, options);
  }

  /** A session and what it holds. */
  async get(id: string, { abortSignal }: SessionCallOptions = {}): Promise<PrecisSession> {
    const { value } = await getFromApi({
      ...this.#call(`/${encodeURIComponent(id)}`),
      successfulResponseHandler: createJsonResponseHandler(session),
      abortSignal,
    });
    return value;
  }

  /** Takes in messages, a time step each, without an answer. */
  append(
    id: string,
    messages: readonly { role: string; content: string }[],
    options: SessionCallOptions = {},
  ): Promise<PrecisSession> {
    return this.#post(`/${encodeURIComponent(id)}/append`, { messages }, options);
  }

  /** A copy, as the session is, or as it was at an earlier step. */
  fork(
    id: string,
    { id: copy, step }: { id?: string; step?: number } = {},
    options: SessionCallOptions = {},
  ): Promise<PrecisSession> {
    return this.#post(`/${encodeURIComponent(id)}/fork`, { id: copy, step }, options);
  }

  /** Goes back to an earlier step; what came later is forgotten. */
  rewind(id: string, step: number, options: SessionCallOptions = {}): Promise<PrecisSession> {
    return this.#post(`/${encodeURIComponent(id)}/rewind`, { step }, options);
  }

  /** Deletes a session. */
  async delete(id: string, { abortSignal }: SessionCallOptions = {}): Promise<void> {
    const call = this.#call(`/${encodeURIComponent(id)}`);
    const send: FetchFunction = call.fetch ?? fetch;
    await postJsonToApi({
      ...call,
      body: {},
      // The helpers know GET and POST; all else about errors and cancelling is the same.
      fetch: (url, init) => send(url, { ...init, method: "DELETE", body: null }),
      successfulResponseHandler: createJsonResponseHandler(z.looseObject({ deleted: z.literal(true) })),
      abortSignal,
    });
  }

  async #post(path: string, body: unknown, { abortSignal }: SessionCallOptions): Promise<PrecisSession> {
    const successfulResponseHandler = createJsonResponseHandler(session);
    const { value } = await postJsonToApi({ ...this.#call(path), body, successfulResponseHandler, abortSignal });
    return value;
  }

  #call(path: string): {
    url: string;
    headers: Record<string, string | undefined>;
    fetch: FetchFunction | undefined;
    failedResponseHandler: typeof failedResponseHandler;
  } {
    const { baseURL, headers, fetch } = this.#connection;
    return { url: `${baseURL}/sessions${path}`, headers: combineHeaders(headers), fetch, failedResponseHandler };
  }
}
