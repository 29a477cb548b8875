/** @file `/v1/chat/completions`: with a session, only the new turn; without, the whole conversation, of which only the new turn is read. */
import type { ChatMessage, FinishReason, GenerationEvent, ToolCall } from "../../index.js";
import { invalidRequest } from "../api-error.js";
import { chatForm } from "../answer-form.js";
import { clientSignal, readBody, streamHooks, type Request, type Services } from "../context.js";
import { splitTurn, toMessages } from "../messages.js";
import { completeSetup, type ServedModel } from "../models.js";
import { samplingOptions } from "../sampling.js";
import { chatRequest, type ChatRequest } from "../schemas/chat.js";
import { prefixChains } from "../sessions/chain.js";
import { chainKey } from "../sessions/session-index.js";
import { freshId, nowSeconds, type Session } from "../sessions/session.js";
import { sseResponse } from "../sse.js";
import { startTurn, type Turn, type TurnOutcome, type TurnPlan } from "../turns.js";
import { completionUsage, tokenCounts, turnTimings } from "../usage.js";
import { LogprobViewer, type TokenLogprobView } from "./logprobs.js";

/** OpenAI's name for how an answer ended. */
export function finishName(reason: FinishReason): "stop" | "length" | "tool_calls" {
  if (reason === "tool-calls") return "tool_calls";
  return reason === "length" ? "length" : "stop";
}

interface ChatTurn {
  plan: TurnPlan;
  /** Whether the messages repeat what the session has seen. */
  repeats: boolean;
}

/** Answers a chat request. */
export async function chatCompletions(c: Request, services: Services): Promise<Response> {
  const body = await readBody(c, chatRequest);
  const { signal, leave } = clientSignal(c);
  const served = services.models.find(body.model);
  const chat = await planChat(body, { services, served, namespace: c.get("namespace") });
  const turn = startTurn(services.sessions, chat.plan, signal);
  const writer = new ChatWriter(body, chat, served);
  if (body.stream !== true) {
    const logprobs = new Map<number, TokenLogprobView[]>();
    for await (const { choice, event } of turn.events) {
      const view = event.type === "text-delta" ? await writer.logprob(event) : undefined;
      if (view !== undefined) logprobs.set(choice, [...(logprobs.get(choice) ?? []), view]);
    }
    const outcome = await turn.outcome;
    services.metrics.turn(outcome, tokenCounts(outcome, chat.repeats).cached);
    return c.json(writer.whole(outcome, logprobs));
  }
  return streamChat(turn, writer, { services, leave, repeats: chat.repeats });
}

async function streamChat(
  turn: Turn,
  writer: ChatWriter,
  { services, leave, repeats }: { services: Services; leave: () => void; repeats: boolean },
): Promise<Response> {
  const events = turn.events[Symbol.asyncIterator]();
  // What fails before the first event still gets a status of its own.
  let next = await events.next();
  return sseResponse(
    async (send) => {
      for (const chunk of writer.opening()) send(chunk);
      for (; next.done !== true; next = await events.next()) {
        const chunk = await writer.piece(next.value.choice, next.value.event);
        if (chunk !== undefined) send(chunk);
      }
      const outcome = await turn.outcome;
      services.metrics.turn(outcome, tokenCounts(outcome, repeats).cached);
      for (const chunk of writer.closing(outcome)) send(chunk);
      send("[DONE]");
    },
    streamHooks(services, leave),
  );
}

/** Finds or drafts the session of a request, and what is new to it. @throws ApiError 400, 404 */
async function planChat(
  body: ChatRequest,
  { services, served, namespace }: { services: Services; served: ServedModel; namespace: string },
): Promise<ChatTurn> {
  const messages = toMessages(body.messages, "messages");
  const { max_completion_tokens: tokens, max_tokens: older } = body;
  const param = tokens === undefined || tokens === null ? "max_tokens" : "max_completion_tokens";
  const sampled = samplingOptions(body, services.limits, { asked: tokens ?? older, param });
  if ((body.top_logprobs ?? 0) > 0 && body.logprobs !== true) {
    throw invalidRequest("top_logprobs", "top_logprobs needs logprobs.", "Set logprobs to true.");
  }
  const logprobs = body.logprobs === true ? (body.top_logprobs ?? 0) : undefined;
  const options = { ...sampled, ...chatForm(body), logprobs };
  const common = { options, count: body.n ?? 1, keep: true };
  if (typeof body.session === "string") {
    const session = await services.sessions.find(namespace, body.session);
    refuseOtherModel(session, body.model);
    if (body.memory) throw invalidRequest("memory", "A session has its memory already.", "Leave one of them out.");
    return { plan: { session, ...splitTurn(messages, "messages"), ...common }, repeats: false };
  }
  splitTurn(messages, "messages");
  const { session, length } = await sessionOf(messages, {
    services,
    served,
    namespace,
    asked: body.memory ?? undefined,
  });
  const rest = splitTurn(messages.slice(length), "messages");
  return { plan: { session, from: session.head, ...rest, ...common }, repeats: true };
}

/** @throws ApiError 400 where a request names a session and another model */
export function refuseOtherModel({ id, served }: Session, model: string | null | undefined): void {
  if (model === undefined || model === null || model === served.id) return;
  throw invalidRequest("model", `Session "${id}" is of the model "${served.id}".`, "Name that one, or none.");
}

/**
 * The session that has seen the longest beginning of a conversation, and how many messages of it: one that stands exactly
 * there goes on, one that went on otherwise is branched there, and without any there is a new one.
 */
async function sessionOf(
  messages: readonly ChatMessage[],
  where: { services: Services; served: ServedModel; namespace: string; asked: ChatRequest["memory"] },
): Promise<{ session: Session; length: number }> {
  const { services, served, namespace } = where;
  const setup = await services.sessions.resolve(served, completeSetup(served, where.asked ?? {}));
  const index = await services.sessions.index(namespace);
  for (const { chain, length } of prefixChains(messages.slice(0, -1)).toReversed()) {
    const point = index.byChain(chainKey({ served, setup }, chain));
    if (point === undefined || messages.slice(length).every(({ role }) => role === "assistant")) continue;
    const { session, state } = point;
    if (session.kind === "chat" && session.head === state && !session.lock.held && !session.claimed) {
      session.claimed = true;
      return { session, length };
    }
    return { session: services.sessions.draft(namespace, served, setup, { kind: "chat", origin: point }), length };
  }
  return { session: services.sessions.draft(namespace, served, setup, { kind: "chat" }), length: 0 };
}

/** Text and calls of a message; one that only calls has no content. */
function answerFields(text: string, calls: readonly ToolCall[]): object {
  if (calls.length === 0) return { content: text };
  return { content: text === "" ? null : text, tool_calls: calls.map(callView) };
}

function callView({ id, name, arguments: given }: ToolCall): object {
  return { id, type: "function", function: { name, arguments: given } };
}

/** Writes the objects of one answer. */
class ChatWriter {
  readonly #id = freshId("chatcmpl");
  readonly #created = nowSeconds();
  readonly #body: ChatRequest;
  readonly #chat: ChatTurn;
  readonly #logprobs: LogprobViewer;

  constructor(body: ChatRequest, chat: ChatTurn, served: ServedModel) {
    this.#body = body;
    this.#chat = chat;
    this.#logprobs = new LogprobViewer(served.model);
  }

  async logprob(event: Extract<GenerationEvent, { type: "text-delta" }>): Promise<TokenLogprobView | undefined> {
    return this.#body.logprobs === true ? this.#logprobs.view(event) : undefined;
  }

  /** The answer as one object. */
  whole(outcome: TurnOutcome, logprobs: ReadonlyMap<number, TokenLogprobView[]>): object {
    const counts = tokenCounts(outcome, this.#chat.repeats);
    return {
      ...this.#frame("chat.completion"),
      choices: outcome.choices.map(({ text, toolCalls, reason }, index) => ({
        index,
        message: { role: "assistant", ...answerFields(text, toolCalls), refusal: null },
        logprobs: this.#body.logprobs === true ? { content: logprobs.get(index) ?? [], refusal: null } : null,
        finish_reason: finishName(reason),
      })),
      usage: completionUsage(outcome, counts),
      timings: turnTimings(outcome, counts),
    };
  }

  /** The first chunk of each answer. */
  opening(): object[] {
    return Array.from({ length: this.#chat.plan.count }, (_, index) =>
      this.#chunk(index, { role: "assistant", content: "" }, null),
    );
  }

  /** The chunk of an event; undefined where there is nothing to say. */
  async piece(choice: number, event: GenerationEvent): Promise<object | undefined> {
    if (event.type === "finish") return this.#chunk(choice, {}, finishName(event.reason));
    if (event.type === "tool-call") {
      const { index, id, name } = event;
      return this.#chunk(choice, { tool_calls: [{ index, ...callView({ id, name, arguments: "" }) }] }, null);
    }
    if (event.type === "tool-call-delta") {
      const { index, arguments: given } = event;
      return this.#chunk(choice, { tool_calls: [{ index, function: { arguments: given } }] }, null);
    }
    if (event.type !== "text-delta") return undefined;
    const view = await this.logprob(event);
    if (event.text === "" && view === undefined) return undefined;
    return this.#chunk(choice, { content: event.text }, null, view);
  }

  /** The last chunks: usage if it was asked for, and timings. */
  closing(outcome: TurnOutcome): object[] {
    const counts = tokenCounts(outcome, this.#chat.repeats);
    if (this.#body.stream_options?.include_usage !== true) return [];
    const usage = completionUsage(outcome, counts);
    return [{ ...this.#frame("chat.completion.chunk"), choices: [], usage, timings: turnTimings(outcome, counts) }];
  }

  #chunk(index: number, delta: object, reason: string | null, view?: TokenLogprobView): object {
    const logprobs = view === undefined ? null : { content: [view], refusal: null };
    const choice = { index, delta, logprobs, finish_reason: reason };
    return { ...this.#frame("chat.completion.chunk"), choices: [choice] };
  }

  #frame(object: string): object {
    const { session } = this.#chat.plan;
    const named = session.kind === "explicit" ? { session: session.id } : {};
    return { id: this.#id, object, created: this.#created, model: session.served.id, ...named };
  }
}
