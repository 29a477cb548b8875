/** @file The form of an answer, from the fields of a request to the options of the library; checked before any work. */
import {
  checkAnswerFormat,
  PrecisError,
  toolSetup,
  type GenerateOptions,
  type ResponseFormat,
  type ToolChoice,
  type ToolDefinition,
} from "../index.js";
import { ApiError, invalidRequest, notSupported } from "./api-error.js";
import type {
  ChatToolParam,
  FormatParam,
  FunctionParam,
  ResponseToolParam,
  ToolChoiceParam,
  ToolFields,
} from "./schemas/answer-form.js";

/** What the library is told of an answer's form. */
export type AnswerForm = Pick<GenerateOptions, "responseFormat" | "tools" | "toolChoice" | "parallelToolCalls">;

/** @throws ApiError 400 for a schema that answers cannot be held to, or tools that are none */
export function chatForm(
  body: ToolFields<ChatToolParam> & { response_format?: FormatParam | null | undefined },
): AnswerForm {
  const functions = (body.tools ?? []).map(({ type, function: described }, index) => {
    if (type === "function" && described !== undefined) return described;
    throw unsupportedTool(index, type);
  });
  return answerForm(body, functions, { field: "response_format", format: body.response_format });
}

/** @throws ApiError 400 as {@link chatForm} */
export function responseForm(
  body: ToolFields<ResponseToolParam> & { text?: { format?: FormatParam | null | undefined } | null | undefined },
): AnswerForm {
  const functions = (body.tools ?? []).map(({ type, name, ...described }, index) => {
    if (type === "function" && name !== undefined) return { name, ...described };
    throw unsupportedTool(index, type);
  });
  return answerForm(body, functions, { field: "text.format", format: body.text?.format });
}

/** The tools that the model is told of. */
export function offeredTools({ tools, toolChoice }: AnswerForm): readonly ToolDefinition[] | undefined {
  return toolChoice === "none" ? undefined : tools;
}

function unsupportedTool(index: number, type: string): ApiError {
  if (type === "function") return invalidRequest(`tools.${index}`, "A function needs a name.");
  return notSupported(`tools.${index}.type`, `A tool of type "${type}"`, "Describe a function.");
}

function answerForm(
  fields: ToolFields<unknown>,
  functions: readonly FunctionParam[],
  { field, format }: { field: string; format: FormatParam | null | undefined },
): AnswerForm {
  if ((fields.functions?.length ?? 0) > 0) throw notSupported("functions", "The older form of tools", "Use tools.");
  const responseFormat = formatOf(format, field);
  const tools = functions.map(({ name, description, parameters, strict }) => ({
    name,
    description: description ?? undefined,
    parameters: parameters ?? undefined,
    strict: strict ?? undefined,
  }));
  const toolChoice = choiceOf(fields.tool_choice);
  const parallelToolCalls = fields.parallel_tool_calls ?? true;
  const setup = checked("tool_choice", () => toolSetup(tools, toolChoice, parallelToolCalls));
  checked(field, () => checkAnswerFormat(responseFormat));
  checked("tools", () => checkAnswerFormat(undefined, setup));
  return tools.length === 0 ? { responseFormat } : { responseFormat, tools, toolChoice, parallelToolCalls };
}

function formatOf(format: FormatParam | null | undefined, field: string): ResponseFormat {
  switch (format?.type) {
    case undefined:
    case "text":
      return { type: "text" };
    case "json_object":
      return { type: "json_object" };
    case "json_schema": {
      const schema = format?.json_schema?.schema ?? format?.schema;
      if (schema !== undefined && schema !== null) return { type: "json_schema", schema };
      throw invalidRequest(field, "The format json_schema needs a schema.");
    }
    default:
      throw notSupported(field, `The format "${format?.type}"`, "Formats: text, json_object, json_schema.");
  }
}

function choiceOf(choice: ToolChoiceParam | null | undefined): ToolChoice {
  if (choice === undefined || choice === null) return "auto";
  if (choice === "auto" || choice === "none" || choice === "required") return choice;
  const name = typeof choice === "string" ? undefined : (choice.function?.name ?? choice.name);
  if (typeof choice !== "string" && choice.type === "function" && name !== undefined) return { name };
  const shown = typeof choice === "string" ? choice : choice.type;
  throw notSupported("tool_choice", `The choice "${shown}"`, "Use auto, none, required, or name a function.");
}

/** Runs a check of the library. Its errors become a 400 about a field. */
function checked<Result>(param: string, check: () => Result): Result {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof PrecisError)) throw error;
    // The message has the next step already.
    const code = error.code === "SCHEMA_UNSUPPORTED" ? "unsupported_schema" : "invalid_value";
    throw new ApiError(400, code, error.message, { param, cause: error });
  }
}
