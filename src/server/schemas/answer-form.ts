/** @file Fields of requests that say what form an answer has: its format, and functions that it may call. */
import { z } from "zod";

/** A function as a request describes it. */
export interface FunctionParam {
  name: string;
  description?: string | null | undefined;
  parameters?: Record<string, unknown> | null | undefined;
  strict?: boolean | null | undefined;
}

/** A tool of a chat request. */
export interface ChatToolParam {
  type: string;
  function?: FunctionParam | undefined;
}

/** A tool of a request for a response. */
export type ResponseToolParam = { type: string } & Partial<FunctionParam>;

/** Which tool to call. Chat requests name a function in a field of its own, the others beside the type. */
export type ToolChoiceParam =
  string | { type: string; name?: string | undefined; function?: { name: string } | undefined };

/** A format; chat requests have the schema in a field of its own. */
export interface FormatParam {
  type: string;
  schema?: Record<string, unknown> | null | undefined;
  json_schema?: { schema?: Record<string, unknown> | null | undefined } | undefined;
}

/** Fields that chat and responses share, and one that is refused rather than ignored. */
export interface ToolFields<Tool> {
  tools?: Tool[] | null | undefined;
  tool_choice?: ToolChoiceParam | null | undefined;
  parallel_tool_calls?: boolean | null | undefined;
  functions?: unknown[] | null | undefined;
}

const name = z.string().regex(/^[A-Za-z0-9_-]{1,64}$/, "use 1 to 64 letters, digits, _ or -");
const schema = z.record(z.string(), z.unknown()).describe("JSON Schema.");

const described = {
  description: z.string().nullish(),
  parameters: schema.nullish().describe("JSON Schema of the arguments. Default: none."),
  strict: z.boolean().nullish().describe("Refuse a schema that arguments cannot be held to."),
};

const chatTool: z.ZodType<ChatToolParam> = z.object({
  type: z.string().describe("Only function is supported."),
  function: z.object({ name, ...described }).optional(),
});

const responseTool: z.ZodType<ResponseToolParam> = z.object({
  type: z.string().describe("Only function is supported."),
  name: name.optional(),
  ...described,
});

const choice: z.ZodType<ToolChoiceParam> = z
  .union([
    z.string(),
    z.object({ type: z.string(), name: z.string().optional(), function: z.object({ name: z.string() }).optional() }),
  ])
  .describe("auto, none, required, or the function to call.");

const toolFields = {
  tool_choice: choice.nullish(),
  parallel_tool_calls: z.boolean().nullish().describe("Whether one answer may have several calls. Default true."),
  functions: z.array(z.unknown()).nullish().describe("Not supported; use tools."),
};

/** Schemas of {@link ToolFields} of chat requests. */
export const chatToolFields: {
  [Name in keyof ToolFields<ChatToolParam>]-?: z.ZodType<ToolFields<ChatToolParam>[Name]>;
} = { tools: z.array(chatTool).max(128).nullish().describe("Functions that the answer may call."), ...toolFields };

/** Schemas of {@link ToolFields} of requests for responses. */
export const responseToolFields: {
  [Name in keyof ToolFields<ResponseToolParam>]-?: z.ZodType<ToolFields<ResponseToolParam>[Name]>;
} = { tools: z.array(responseTool).max(128).nullish().describe("Functions that the answer may call."), ...toolFields };

/** A format of an answer, in either form. */
export const formatParam: z.ZodType<FormatParam> = z
  .looseObject({
    type: z.string(),
    schema: schema.nullish(),
    json_schema: z.looseObject({ schema: schema.nullish() }).optional(),
  })
  .describe("text, json_object or json_schema. Answers are held to it token by token, strict or not.");
