/** @file Messages, calls and tools in the form that chat templates read, with nothing in them that passes for a control token. */
import type { ChatMessage, ChatTemplate } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { answerText, resultText, templateTool } from "../tools/call-format.js";
import type { ToolCall, ToolDefinition } from "../tools/tool.js";

/** A message as templates of the hub name its fields. */
interface TemplateMessage extends ChatMessage {
  tool_calls?: object[];
  tool_call_id?: string;
}

/** A message for a template; calls and their results become text where the template does not know them. */
export function templateMessage(
  { role, content, toolCalls = [], toolCallId }: ChatMessage,
  reads: ChatTemplate["reads"],
  tokenizer: Tokenizer,
): TemplateMessage {
  if (role === "tool") {
    if (!reads.toolRole) return { role: "user", content: tokenizer.shield(resultText(content)) };
    const shielded = tokenizer.shield(content);
    return { role, content: shielded, ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }) };
  }
  if (toolCalls.length === 0) return { role, content: tokenizer.shield(content) };
  if (!reads.toolCalls) return { role, content: tokenizer.shield(answerText({ content, toolCalls })) };
  return {
    role,
    content: tokenizer.shield(content),
    tool_calls: toolCalls.map((call) => templateCall(call, tokenizer)),
  };
}

/** Tools for a template. @param definitions as JSON */
export function templateTools(definitions: string, tokenizer: Tokenizer): object[] {
  return (JSON.parse(tokenizer.shield(definitions)) as ToolDefinition[]).map(templateTool);
}

function templateCall({ id, name, arguments: given }: ToolCall, tokenizer: Tokenizer): object {
  const shielded = tokenizer.shield(given);
  return { id, type: "function", function: { name: tokenizer.shield(name), arguments: parsedArguments(shielded) } };
}

/** Templates expect an object; what was cut off is shown as it is. */
function parsedArguments(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return json;
  }
}
