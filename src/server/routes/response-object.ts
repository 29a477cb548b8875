/** @file The objects and stream events of `/v1/responses`. */
import type { GenerationEvent, GenerationResult, ToolCall } from "../../index.js";
import type { ResponsesRequest } from "../schemas/responses.js";
import { freshId, nowSeconds } from "../sessions/session.js";
import type { SendEvent } from "../sse.js";
import type { TurnOutcome } from "../turns.js";
import { memoryUsage, tokenCounts, turnTimings } from "../usage.js";

/** Where a response stands. */
export interface ResponseFrame {
  id: string;
  model: string;
  /** The session that it belongs to, if the client named one. */
  conversation: string | undefined;
}

/** Writes one response. */
export class ResponseWriter {
  readonly id: string;
  readonly #messageId = freshId("msg");
  readonly #created = nowSeconds();
  readonly #request: ResponsesRequest;
  readonly #frame: ResponseFrame;
  /** What the answer consists of, in the order in which it came. */
  readonly #items: ("message" | number)[] = [];
  readonly #callIds: string[] = [];
  #sequence = 0;

  constructor(request: ResponsesRequest, frame: ResponseFrame) {
    this.id = frame.id;
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
      output: outcome === undefined ? [] : this.#output(outcome),
      parallel_tool_calls: request.parallel_tool_calls ?? true,
      previous_response_id: request.previous_response_id ?? null,
      reasoning: { effort: null, summary: null },
      store: request.store ?? true,
      temperature: request.temperature ?? null,
      text: { format: request.text?.format ?? { type: "text" } },
      tool_choice: request.tool_choice ?? "auto",
      tools: request.tools ?? [],
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
    // What may be a call is not begun as a message.
    if ((this.#request.tools?.length ?? 0) === 0) this.#beginMessage(emit);
  }

  /** The events of a piece of text, or of a call. */
  piece(send: SendEvent, event: GenerationEvent): void {
    const emit = this.#emitter(send);
    if (event.type === "text-delta" && event.text !== "") {
      this.#beginMessage(emit);
      emit("response.output_text.delta", { ...this.#place(), delta: event.text, logprobs: [] });
    } else if (event.type === "tool-call") {
      this.#items.push(event.index);
      const item = callItem({ id: event.id, name: event.name, arguments: "" }, "in_progress");
      emit("response.output_item.added", { output_index: this.#items.length - 1, item });
      this.#callIds[event.index] = callItemId(event.id);
    } else if (event.type === "tool-call-delta") {
      const place = { item_id: this.#callIds[event.index], output_index: this.#items.indexOf(event.index) };
      emit("response.function_call_arguments.delta", { ...place, delta: event.arguments });
    }
  }

  /** Events after the last token. */
  close(send: SendEvent, outcome: TurnOutcome): void {
    const emit = this.#emitter(send);
    const { text, toolCalls } = outcome.choices[0] as GenerationResult;
    if (toolCalls.length === 0) this.#beginMessage(emit);
    const response = this.object(outcome);
    for (const [index, item] of this.#output(outcome).entries()) {
      const kind = this.#items[index];
      if (kind === "message") {
        emit("response.output_text.done", { ...this.#place(), text, logprobs: [] });
        emit("response.content_part.done", { ...this.#place(), part: textPart(text) });
      } else if (kind !== undefined) {
        const { name, arguments: given } = toolCalls[kind] as ToolCall;
        const place = { item_id: this.#callIds[kind], output_index: index };
        emit("response.function_call_arguments.done", { ...place, name, arguments: given });
      }
      emit("response.output_item.done", { output_index: index, item });
    }
    emit(response["status"] === "incomplete" ? "response.incomplete" : "response.completed", { response });
  }

  #emitter(send: SendEvent): (type: string, fields: object) => void {
    return (type, fields) => send({ type, sequence_number: this.#sequence++, ...fields }, type);
  }

  #beginMessage(emit: (type: string, fields: object) => void): void {
    if (this.#items.includes("message")) return;
    this.#items.push("message");
    const item = { id: this.#messageId, type: "message", status: "in_progress", role: "assistant", content: [] };
    emit("response.output_item.added", { output_index: this.#items.length - 1, item });
    emit("response.content_part.added", { ...this.#place(), part: textPart("") });
  }

  #place(): object {
    return { item_id: this.#messageId, output_index: this.#items.indexOf("message"), content_index: 0 };
  }

  /** All items, in the order of a stream if there was one, else the text first. Only the last one may be incomplete. */
  #output({ choices }: TurnOutcome): object[] {
    const { text, toolCalls, reason } = choices[0] as GenerationResult;
    const hasMessage = text !== "" || toolCalls.length === 0;
    const order = [...(hasMessage ? ["message" as const] : []), ...toolCalls.keys()];
    const items = this.#items.length === order.length ? this.#items : order;
    return items.map((item, index) => {
      const status = reason === "length" && index === items.length - 1 ? "incomplete" : "completed";
      if (item !== "message") return callItem(toolCalls[item] as ToolCall, status);
      return { id: this.#messageId, type: "message", status, role: "assistant", content: [textPart(text)] };
    });
  }
}

type ItemStatus = "in_progress" | "completed" | "incomplete";

function callItemId(callId: string): string {
  return callId.replace(/^call_/, "fc_");
}

function callItem({ id, name, arguments: given }: ToolCall, status: ItemStatus): object {
  return { id: callItemId(id), type: "function_call", status, call_id: id, name, arguments: given };
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
