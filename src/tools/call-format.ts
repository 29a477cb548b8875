/**
 * @file How calls are written in an answer, as Hermes, Qwen and others were taught:
 *
 * ```text
 * <tool_call>
 * {"name": "get_weather", "arguments": {"city": "Porto"}}
 * </tool_call>
 * ```
 */
import type { ChatMessage } from "../text/chat-template.js";
import type { ToolCall, ToolDefinition } from "./tool.js";
import { NO_PARAMETERS } from "./tool.js";

/** Opens a call. */
export const CALL_OPEN = "<tool_call>";
/** Closes a call. */
export const CALL_CLOSE = "</tool_call>";

/** A tool in the form that chat templates of the hub read. */
export function templateTool({ name, description = "", parameters = NO_PARAMETERS }: ToolDefinition): object {
  return { type: "function", function: { name, description, parameters } };
}

/** Tells a model of tools whose chat template does not. */
export function toolText(tools: readonly ToolDefinition[]): string {
  const lines = tools.map((tool) => JSON.stringify(templateTool(tool)));
  return [
    "You may call these functions:",
    "<tools>",
    ...lines,
    "</tools>",
    "To call one, answer with its name and arguments as JSON:",
    CALL_OPEN,
    '{"name": "NAME", "arguments": {}}',
    CALL_CLOSE,
  ].join("\n");
}

/** A call as a model writes it. */
export function callText({ name, arguments: given }: Omit<ToolCall, "id">): string {
  return `${CALL_OPEN}\n{"name": ${JSON.stringify(name)}, "arguments": ${given}}\n${CALL_CLOSE}`;
}

/** An answer with its calls as text. */
export function answerText({ content, toolCalls = [] }: Pick<ChatMessage, "content" | "toolCalls">): string {
  return [...(content === "" ? [] : [content]), ...toolCalls.map(callText)].join("\n");
}

/** The result of a call as text of a user, for templates without a role for it. */
export function resultText(content: string): string {
  return `<tool_response>\n${content}\n</tool_response>`;
}
