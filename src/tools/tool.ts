/** @file Functions that a model may ask its caller to run. */
import { PrecisError } from "../errors.js";
import type { JsonSchema } from "../grammar/schema.js";

/** A function that a model may call. */
export interface ToolDefinition {
  /** 1 to 64 letters, digits, `_` or `-`. */
  name: string;
  /** When and how to call it. */
  description?: string | undefined;
  /** JSON Schema of its arguments, which are an object; default: none. */
  parameters?: JsonSchema | undefined;
  /**
   * Refuse a schema that answers cannot be held to. Otherwise arguments are held to as much as possible: to the schema if
   * all of it is supported, else to being an object.
   */
  strict?: boolean | undefined;
}

/** Whether a model may, must not or must call a function, or which one it must call. Default `"auto"`. */
export type ToolChoice = "auto" | "none" | "required" | { name: string };

/** A call that a model asks for. */
export interface ToolCall {
  /** Names the call, so that its result can be told apart from others. */
  id: string;
  name: string;
  /** JSON of an object; cut off where the answer was. */
  arguments: string;
}

/** Tools of an answer, complete and checked. */
export interface ToolSetup {
  tools: readonly ToolDefinition[];
  choice: ToolChoice;
  /** Whether one answer may have several calls. */
  parallel: boolean;
}

/** Arguments of a function that takes none. */
export const NO_PARAMETERS: JsonSchema = { type: "object", properties: {}, additionalProperties: false };

const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const MAX_TOOLS = 128;

function invalid(message: string, value: unknown, nextStep: string): PrecisError {
  return new PrecisError("OPTION_INVALID", message, { value, nextStep });
}

/**
 * The tools of an answer; undefined where it is not to call any.
 * @throws OPTION_INVALID for names that are odd, used twice or chosen and not there
 */
export function toolSetup(
  tools: readonly ToolDefinition[] | undefined,
  choice: ToolChoice = "auto",
  parallel = true,
): ToolSetup | undefined {
  const names = new Set<string>();
  for (const tool of tools ?? []) {
    if (typeof tool?.name !== "string" || !NAME.test(tool.name)) {
      throw invalid("A tool has no proper name.", tool?.name, "Use 1 to 64 letters, digits, _ or -.");
    }
    if (names.has(tool.name)) throw invalid(`Two tools are called "${tool.name}".`, tool.name, "Rename one of them.");
    names.add(tool.name);
  }
  if (names.size > MAX_TOOLS) throw invalid(`There are more than ${MAX_TOOLS} tools.`, names.size, "Offer fewer.");
  const wanted = typeof choice === "object" ? choice.name : undefined;
  if (wanted !== undefined && !names.has(wanted)) {
    throw invalid(`There is no tool "${wanted}" to choose.`, wanted, "Choose one of the tools.");
  }
  if (choice === "required" && names.size === 0) {
    throw invalid("A call is required, and there are no tools.", choice, "Offer some.");
  }
  if (tools === undefined || names.size === 0 || choice === "none") return undefined;
  return { tools, choice, parallel };
}
