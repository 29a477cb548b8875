/** @file Calls of the server's API. */
import type { Attention, MemoryChoice, MemoryUsage, Message, ModelView, SessionMemory, SessionView } from "./types.js";

/** A refusal or failure, in words that can be shown. */
export class RequestFailure extends Error {
  /** 0 where the server could not be reached. */
  readonly status: number;
  readonly code: string;
  readonly nextStep: string | undefined;

  constructor(status: number, code: string, message: string, nextStep?: string) {
    super(message);
    this.status = status;
    this.code = code;
    this.nextStep = nextStep;
  }
}

/** How an answer is asked for. */
export interface AnswerOptions {
  maxTokens: number;
  temperature: number;
}

/** What comes while an answer is written. */
export interface AnswerEnd {
  /** Why it ended: `stop` or `length`. */
  reason: string;
  memory: MemoryUsage;
  tokensPerSecond: number;
}

interface ErrorBody {
  error?: { message?: string; code?: string; next_step?: string | null };
}

function failureOf(status: number, { error }: ErrorBody): RequestFailure {
  const { message = `The server answered ${status}.`, code = "unknown", next_step: nextStep } = error ?? {};
  // The server's messages end with what can be done, where it knows.
  const isSaid = nextStep === undefined || nextStep === null || message.includes(nextStep);
  return new RequestFailure(status, code, message, isSaid ? undefined : nextStep);
}

/** Talks to the server that the page came from. */
export class Client {
  #key: string | undefined;

  constructor(key: string | undefined) {
    this.#key = key;
  }

  /** Another API key for all further calls. */
  setKey(key: string | undefined): void {
    this.#key = key;
  }

  async models(): Promise<ModelView[]> {
    return (await this.#json<{ data: ModelView[] }>("GET", "/v1/models")).data;
  }

  /** The newest sessions, up to 100. */
  async sessions(): Promise<SessionView[]> {
    return (await this.#json<{ data: SessionView[] }>("GET", "/v1/sessions?limit=100")).data;
  }

  session(id: string): Promise<SessionView> {
    return this.#json("GET", `/v1/sessions/${id}`);
  }

  create(memory: MemoryChoice, metadata: Record<string, string>): Promise<SessionView> {
    return this.#json("POST", "/v1/sessions", { ...memory, metadata });
  }

  append(id: string, messages: readonly Message[], signal?: AbortSignal): Promise<SessionView> {
    return this.#json("POST", `/v1/sessions/${id}/append`, { messages }, signal);
  }

  fork(id: string, step: number): Promise<SessionView> {
    // Step 0 is no checkpoint, and a copy of nothing is a new session.
    return this.#json("POST", `/v1/sessions/${id}/fork`, { step });
  }

  rewind(id: string, step: number): Promise<SessionView> {
    return this.#json("POST", `/v1/sessions/${id}/rewind`, { step });
  }

  delete(id: string): Promise<unknown> {
    return this.#json("DELETE", `/v1/sessions/${id}`);
  }

  memory(id: string): Promise<SessionMemory> {
    return this.#json("GET", `/v1/sessions/${id}/memory`);
  }

  attention(id: string, asked: { messages: Message[]; answer: string; step: number }): Promise<Attention> {
    return this.#json("POST", `/v1/sessions/${id}/attention`, asked);
  }

  /** Answers a message in a session; `onText` gets the answer piece by piece. */
  async answer(
    id: string,
    content: string,
    { maxTokens, temperature }: AnswerOptions,
    { signal, onText }: { signal: AbortSignal; onText: (text: string) => void },
  ): Promise<AnswerEnd> {
    const response = await this.#fetch("POST", "/v1/chat/completions", {
      body: {
        session: id,
        messages: [{ role: "user", content }],
        max_completion_tokens: maxTokens,
        temperature,
        stream: true,
        stream_options: { include_usage: true },
      },
      signal,
    });
    let reason = "stop";
    let end: AnswerEnd | undefined;
    for await (const data of eventData(response)) {
      const chunk = JSON.parse(data) as ErrorBody & {
        choices?: { delta: { content?: string }; finish_reason: string | null }[];
        usage?: { memory: MemoryUsage };
        timings?: { predicted_per_second: number };
      };
      if (chunk.error !== undefined) throw failureOf(500, chunk);
      const [choice] = chunk.choices ?? [];
      if (choice?.delta.content) onText(choice.delta.content);
      reason = choice?.finish_reason ?? reason;
      if (chunk.usage) {
        end = { reason, memory: chunk.usage.memory, tokensPerSecond: chunk.timings?.predicted_per_second ?? 0 };
      }
    }
    if (end === undefined) throw new RequestFailure(0, "cut_off", "The answer was cut off.", "Send it again.");
    return end;
  }

  async #json<Body>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Body> {
    return (await (await this.#fetch(method, path, { body, signal })).json()) as Body;
  }

  async #fetch(
    method: string,
    path: string,
    { body, signal }: { body?: unknown; signal?: AbortSignal | undefined },
  ): Promise<Response> {
    const headers: Record<string, string> = {};
    if (this.#key !== undefined) headers["authorization"] = `Bearer ${this.#key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let response: Response;
    try {
      response = await fetch(path, {
        method,
        headers,
        signal: signal ?? null,
        body: body === undefined ? null : JSON.stringify(body),
      });
    } catch (error) {
      if (signal?.aborted === true) throw error;
      throw new RequestFailure(0, "unreachable", "The server cannot be reached.", "Check that it is still running.");
    }
    if (response.ok) return response;
    throw failureOf(response.status, (await response.json().catch(() => ({}))) as ErrorBody);
  }
}

/** The `data` of server-sent events, up to `[DONE]`. */
async function* eventData(response: Response): AsyncGenerator<string> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (reader === undefined) return;
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    rest += part.value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (data === "[DONE]") return;
      if (data !== undefined) yield data;
    }
  }
}
