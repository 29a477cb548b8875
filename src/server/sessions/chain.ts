/** @file A running hash of everything that a session was told and answered, so that a history is recognised exactly. */
import { createHash } from "node:crypto";
import type { ChatMessage } from "../../index.js";

/** The chain of nothing. */
export const NOTHING = "";

function link(chain: string, item: readonly unknown[]): string {
  return createHash("sha256")
    .update(`${chain}\n${JSON.stringify(item)}`)
    .digest("base64url");
}

/** The chain after messages: each link is SHA-256(previous link, role, content, and what there is of calls). */
export function afterMessages(chain: string, messages: readonly ChatMessage[]): string {
  return messages.reduce((before, { role, content, toolCalls = [], toolCallId }) => {
    const calls = toolCalls.map(({ id, name, arguments: given }) => [id, name, given]);
    const rest = calls.length === 0 && toolCallId === undefined ? [] : [calls, toolCallId ?? null];
    return link(before, ["message", role, content, ...rest]);
  }, chain);
}

/** The chain after a text, or after token ids. */
export function afterText(chain: string, text: string | readonly number[]): string {
  return link(chain, ["text", text]);
}

/** The chains after the first message, the first two, and so on, each with how many messages it covers. */
export function prefixChains(messages: readonly ChatMessage[]): { chain: string; length: number }[] {
  let chain = NOTHING;
  return messages.map((message, index) => {
    chain = afterMessages(chain, [message]);
    return { chain, length: index + 1 };
  });
}
