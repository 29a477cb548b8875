/** @file The objects and stream events of `/v1/responses`. */
import type { GenerationEvent, GenerationResult } from "../../index.js";
import type { ResponsesRequest } from "../schemas/responses.js";
import { freshId, nowSeconds } from "../sessions/session.js";
import type { SendEvent } from "../sse.js";
import type { TurnOutcome } from "../turns.js";
import { memoryUsage, tokenCounts, turnTimings } from "../usage.js";

/** Where a response stands. */
export interface ResponseFrame {
  model: string;
  /** The session that it belongs to, if the client named one. */
  conversation: string | undefined;
}

/** Writes one response. */
export class ResponseWriter {
  readonly id: string = freshId("resp");
  readonly #messageId = freshId("msg");
  readonly #created = nowSeconds();
  readonly #request: ResponsesRequest;
  readonly #frame: ResponseFrame;
  #sequence = 0;

  constructor(request: ResponsesRequest, frame: ResponseFrame) {
    this.#request = request;
    this.#frame = frame;
  }

  /** The response as one object; without an outcome it is in progress. */
  object(outcome?: TurnOutcome): Record<string, unknown> {
    const request = this.#request;
    const cut = outcome?.choices[0]?.reason === "length";
    const { conversation, model } = this.#frame;
    return {
      id: this.id,
      object: "response",
      created_at: this.#created,
      status: outcome === undefined ? "in_progress" : cut ? "incomplete" : "completed",
      background: false,
      conversation: conversation === undefined ? null : { id: conversation },
      error: null,
      incomplete_details: cut ? { reason: "max_output_tokens" } : null,
      instructions: request.instructions ?? null,
      max_output_tokens: request.max_output_tokens ?? null,
      metadata: request.metadata ?? {},
      model,
      output: outcome === undefined ? [] : [this.#message(outcome)],
      parallel_tool_calls: false,
      previous_response_id: request.previous_response_id ?? null,
      reasoning: { effort: null, summary: null },
      store: request.store ?? true,
      temperature: request.temperature ?? null,
      text: { format: { type: "text" } },
      tool_choice: "none",
      tools: [],
      top_p: request.top_p ?? null,
      truncation: "disabled",
      usage: outcome === undefined ? null : responseUsage(outcome),
      ...(outcome === undefined ? {} : { timings: turnTimings(outcome, tokenCounts(outcome, true)) }),
    };
  }

  /** Events before the first token. */
  open(send: SendEvent): void {
    const emit = this.#emitter(send);
    emit("response.created", { response: this.object() });
    emit("response.in_progress", { response: this.object() });
    const item = { id: this.#messageId, type: "message", status: "in_progress", role: "assistant", content: [] };
    emit("response.output_item.added", { output_index: 0, item });
    emit("response.content_part.added", { ...this.#place(), part: textPart("") });
  }

  /** The event of a piece of text. */
  piece(send: SendEvent, event: GenerationEvent): void {
    if (event.type !== "text-delta" || event.text === "") return;
    this.#emitter(send)("response.output_text.delta", { ...this.#place(), delta: event.text, logprobs: [] });
  }

  /** Events after the last token. */
  close(send: SendEvent, outcome: TurnOutcome): void {
    const emit = this.#emitter(send);
    const response = this.object(outcome);
    const { text } = outcome.choices[0] as GenerationResult;
    emit("response.output_text.done", { ...this.#place(), text, logprobs: [] });
    emit("response.content_part.done", { ...this.#place(), part: textPart(text) });
    emit("response.output_item.done", { output_index: 0, item: this.#message(outcome) });
    emit(response["status"] === "incomplete" ? "response.incomplete" : "response.completed", { response });
  }

  #emitter(send: SendEvent): (type: string, fields: object) => void {
    return (type, fields) => send({ type, sequence_number: this.#sequence++, ...fields }, type);
  }

  #place(): object {
    return { item_id: this.#messageId, output_index: 0, content_index: 0 };
  }

  #message({ choices }: TurnOutcome): object {
    const { text, reason } = choices[0] as GenerationResult;
    const status = reason === "length" ? "incomplete" : "completed";
    return { id: this.#messageId, type: "message", status, role: "assistant", content: [textPart(text)] };
  }
}

function textPart(text: string): object {
  return { type: "output_text", text, annotations: [], logprobs: [] };
}

/** All that the memory has seen is input, most of which it need not read again. */
function responseUsage(outcome: TurnOutcome): object {
  const { prompt, cached, generated } = tokenCounts(outcome, true);
  return {
    input_tokens: prompt,
    input_tokens_details: { cached_tokens: cached },
    output_tokens: generated,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: prompt + generated,
    memory: memoryUsage(outcome.after),
  };
}
