/** @file What of a prompt a session has not seen yet. */
import type { LanguageModelV3Prompt } from "@ai-sdk/provider";

/**
 * The new turn of a conversation that a session holds: all after the last answer. System messages were sent when the
 * session was made, and what AI SDK calls repeat of them is not sent again.
 */
export function newTurn(prompt: LanguageModelV3Prompt): LanguageModelV3Prompt {
  const answered = prompt.findLastIndex(({ role }) => role === "assistant") + 1;
  return prompt.slice(answered).filter(({ role }) => role !== "system");
}
