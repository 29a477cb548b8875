/** @file `/v1/responses`: an id names the memory that a response left, and the next one goes on from there. */
import type { ChatMessage } from "../../index.js";
import { ApiError, invalidRequest, notSupported } from "../api-error.js";
import { clientSignal, readBody, streamHooks, type Request, type Services } from "../context.js";
import { responseForm } from "../answer-form.js";
import { contentText, splitTurn, toMessages, type MessageParam } from "../messages.js";
import { completeSetup, type ServedModel } from "../models.js";
import { samplingOptions } from "../sampling.js";
import { responsesRequest, type InputItem, type ResponsesRequest } from "../schemas/responses.js";
import { freshResponseId } from "../sessions/response-id.js";
import type { SessionPoint } from "../sessions/session-index.js";
import type { Session } from "../sessions/session.js";
import { sseResponse } from "../sse.js";
import { startTurn, type TurnPlan } from "../turns.js";
import { tokenCounts } from "../usage.js";
import { refuseOtherModel } from "./chat.js";
import { ResponseWriter } from "./response-object.js";

/** Answers a request for a response. */
export async function createResponse(c: Request, services: Services): Promise<Response> {
  const body = await readBody(c, responsesRequest);
  const form = responseForm(body);
  if (body.background === true) throw notSupported("background", "Work in the background", "Stream the response.");
  const { signal, leave } = clientSignal(c);
  const messages = inputMessages(body);
  const turnParts = splitTurn(messages, "input");
  const sampled = samplingOptions(body, services.limits, { asked: body.max_output_tokens, param: "max_output_tokens" });
  const options = { ...sampled, ...form };
  const namespace = c.get("namespace");
  const session = await sessionOf(body, { services, namespace });
  const conversation = session.kind === "explicit" ? session.id : undefined;
  const id = freshResponseId(session.id);
  const writer = new ResponseWriter(body, { id, model: session.served.id, conversation });
  const store = body.store ?? true;
  const plan: TurnPlan = {
    session,
    from: session.kind === "explicit" ? undefined : session.head,
    ...turnParts,
    options,
    count: 1,
    // Without a store the memory of a conversation still goes on, as it is the client's own.
    keep: store || conversation !== undefined,
    response: store ? { id, body: (outcome) => writer.object(outcome) } : undefined,
  };
  const turn = startTurn(services.sessions, plan, signal);
  const events = turn.events[Symbol.asyncIterator]();
  let next = await events.next();
  if (body.stream === true) {
    return sseResponse(
      async (send) => {
        writer.open(send);
        for (; next.done !== true; next = await events.next()) writer.piece(send, next.value.event);
        const outcome = await turn.outcome;
        services.metrics.turn(outcome, tokenCounts(outcome, true).cached);
        writer.close(send, outcome);
      },
      streamHooks(services, leave),
    );
  }
  while (next.done !== true) next = await events.next();
  const outcome = await turn.outcome;
  services.metrics.turn(outcome, tokenCounts(outcome, true).cached);
  return c.json(writer.object(outcome));
}

/** Shows a stored response. */
export async function getResponse(c: Request, services: Services): Promise<Response> {
  const { state } = await findResponse(services, c.get("namespace"), c.req.param("id") ?? "");
  return c.json(state.response?.body as object);
}

/** Forgets a response; its memory goes when no other response is left that shares the session. */
export async function deleteResponse(c: Request, services: Services): Promise<Response> {
  const id = c.req.param("id") ?? "";
  const { session } = await findResponse(services, c.get("namespace"), id);
  const { signal } = clientSignal(c);
  if (session.kind === "response" && session.states.length === 1) await services.sessions.delete(session, signal);
  else {
    await services.sessions.exclusive(session, { signal }, () => services.sessions.forgetResponse(session, id));
  }
  return c.json({ id, object: "response", deleted: true });
}

async function findResponse(services: Services, namespace: string, id: string): Promise<SessionPoint> {
  const point = await services.sessions.findResponse(namespace, id);
  if (point !== undefined) return point;
  throw new ApiError(404, "response_not_found", `There is no response "${id.slice(0, 128)}", or no longer.`, {
    param: "previous_response_id",
    nextStep: "Begin a new conversation; the server keeps a limited number of states.",
  });
}

function inputMessages({ input, instructions }: ResponsesRequest): ChatMessage[] {
  const items = typeof input === "string" ? [{ role: "user", content: input }] : input;
  const messages = toMessages(
    items.map((item, index) => itemMessage(item, `input.${index}`)),
    "input",
  );
  const system = instructions ? [{ role: "system", content: instructions }] : [];
  return [...system, ...joinCalls(messages)];
}

/** An item as a message of a chat. */
function itemMessage(item: InputItem, param: string): MessageParam {
  const { type = "message", role, content, call_id: id, name, arguments: given, output } = item;
  if (type === "message") {
    if (role === undefined) throw invalidRequest(`${param}.role`, "A message needs a role.");
    return { role, content };
  }
  if (type === "function_call") {
    if (id === undefined || name === undefined || given === undefined) {
      throw invalidRequest(param, "A call needs call_id, name and arguments.");
    }
    return { role: "assistant", tool_calls: [{ id, type: "function", function: { name, arguments: given } }] };
  }
  if (type === "function_call_output") {
    if (id === undefined) throw invalidRequest(`${param}.call_id`, "A result needs the id of its call.");
    return { role: "tool", content: contentText(output, `${param}.output`), tool_call_id: id };
  }
  throw notSupported(param, `Input of type "${type}"`, "Send messages, function_call and function_call_output.");
}

/** Calls that follow each other, or a text, are one answer. */
function joinCalls(messages: readonly ChatMessage[]): ChatMessage[] {
  const joined: ChatMessage[] = [];
  for (const message of messages) {
    const last = joined.at(-1);
    if (last?.role === "assistant" && message.toolCalls !== undefined) {
      joined[joined.length - 1] = { ...last, toolCalls: [...(last.toolCalls ?? []), ...message.toolCalls] };
    } else joined.push(message);
  }
  return joined;
}

/** The session that a response goes on with: a client's own, that of another response or a branch of it, or a new one. */
async function sessionOf(
  body: ResponsesRequest,
  { services, namespace }: { services: Services; namespace: string },
): Promise<Session> {
  const { previous_response_id: previous, conversation, memory } = body;
  const goesOn = previous ?? conversation ?? undefined;
  if (previous && conversation) {
    throw invalidRequest("conversation", "A response goes on with one thing.", "Leave previous_response_id out.");
  }
  if (goesOn !== undefined && memory) {
    throw invalidRequest("memory", "What the response goes on with has its memory already.", "Leave one of them out.");
  }
  if (conversation) {
    const id = typeof conversation === "string" ? conversation : conversation.id;
    const session = await services.sessions.find(namespace, id);
    refuseOtherModel(session, body.model);
    return session;
  }
  if (!previous) {
    const served: ServedModel = services.models.find(body.model);
    const setup = await services.sessions.resolve(served, completeSetup(served, memory ?? {}));
    return services.sessions.draft(namespace, served, setup, { kind: "response" });
  }
  const point = await findResponse(services, namespace, previous);
  const { session, state } = point;
  refuseOtherModel(session, body.model);
  const stored = body.store ?? true;
  if (stored && session.kind === "response" && session.head === state && !session.lock.held && !session.claimed) {
    session.claimed = true;
    return session;
  }
  return services.sessions.draft(namespace, session.served, session.setup, { kind: "response", origin: point });
}
