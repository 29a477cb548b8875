/** @file Messages of OpenAI's forms as the library takes them. */
import type { ChatMessage, ToolCall } from "../index.js";
import { invalidRequest, notSupported } from "./api-error.js";

/** A piece of a message's content; only text can be read. */
export interface ContentPart {
  type: string;
  text?: string | undefined;
}

/** A message of a request. */
export interface MessageParam {
  role: string;
  content?: string | readonly ContentPart[] | null | undefined;
  tool_calls?:
    | { id: string; type?: string | undefined; function?: { name: string; arguments: string } | undefined }[]
    | null
    | undefined;
  tool_call_id?: string | null | undefined;
}

const TEXT_PARTS: ReadonlySet<string> = new Set(["text", "input_text", "output_text"]);

/** The text of a content. @param param names it in errors. @throws ApiError 400 for what is not text */
export function contentText(content: MessageParam["content"], param: string): string {
  if (typeof content === "string") return content;
  if (content === null || content === undefined) throw invalidRequest(param, "A message needs content.");
  const texts = content.map(({ type, text }, index) => {
    if (TEXT_PARTS.has(type) && text !== undefined) return text;
    throw notSupported(`${param}.${index}`, `Content of type "${type}"`, "Send text.");
  });
  return texts.join("\n");
}

/** Messages with plain texts. `developer` is the newer name of `system`. @throws ApiError 400 for what is not text */
export function toMessages(params: readonly MessageParam[], field: string): ChatMessage[] {
  return params.map(({ role, content, tool_calls: calls, tool_call_id: callId }, index) => {
    const param = `${field}.${index}`;
    const isCall = (calls?.length ?? 0) > 0;
    const text = isCall && (content === null || content === undefined) ? "" : contentText(content, `${param}.content`);
    if (isCall) return { role, content: text, toolCalls: toolCalls(role, calls ?? [], param) };
    if (role === "tool") {
      if (callId) return { role, content: text, toolCallId: callId };
      throw invalidRequest(`${param}.tool_call_id`, "A result needs the id of its call.");
    }
    return { role: role === "developer" ? "system" : role, content: text };
  });
}

function toolCalls(role: string, calls: NonNullable<MessageParam["tool_calls"]>, param: string): ToolCall[] {
  if (role !== "assistant") throw invalidRequest(`${param}.tool_calls`, "Only an assistant's message calls functions.");
  return calls.map(({ id, type, function: called }, index) => {
    if (called !== undefined) return { id, name: called.name, arguments: called.arguments };
    throw notSupported(`${param}.tool_calls.${index}`, `A call of type "${type}"`, "Send calls of functions.");
  });
}

/**
 * What of a conversation is past, and what is to be answered: all after the last answer.
 * @throws ApiError 400 where nothing is
 */
export function splitTurn(
  messages: readonly ChatMessage[],
  field: string,
): { history: readonly ChatMessage[]; input: readonly ChatMessage[] } {
  const answers = messages.findLastIndex(({ role }) => role === "assistant") + 1;
  const [history, input] = [messages.slice(0, answers), messages.slice(answers)];
  if (input.length > 0) return { history, input };
  throw invalidRequest(field, "There is nothing to answer.", "End with a message that is not the assistant's.");
}
