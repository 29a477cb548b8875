/** @file Messages of OpenAI's forms as the library takes them. */
import type { ChatMessage } from "../index.js";
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
  tool_calls?: unknown;
}

const TEXT_PARTS: ReadonlySet<string> = new Set(["text", "input_text", "output_text"]);

function contentText(content: MessageParam["content"], param: string): string {
  if (typeof content === "string") return content;
  if (content === null || content === undefined) throw invalidRequest(`${param}.content`, "A message needs content.");
  const texts = content.map(({ type, text }, index) => {
    if (TEXT_PARTS.has(type) && text !== undefined) return text;
    throw notSupported(`${param}.content.${index}`, `Content of type "${type}"`, "Send text.");
  });
  return texts.join("\n");
}

/** Messages with plain texts. `developer` is the newer name of `system`. @throws ApiError 400 for what is not text */
export function toMessages(params: readonly MessageParam[], field: string): ChatMessage[] {
  return params.map(({ role, content, tool_calls: calls }, index) => {
    const param = `${field}.${index}`;
    if (Array.isArray(calls) && calls.length > 0)
      throw notSupported(`${param}.tool_calls`, "Tool calling", "Send text.");
    return { role: role === "developer" ? "system" : role, content: contentText(content, param) };
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
