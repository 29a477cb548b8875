/** @file The request of `/v1/responses`. */
import { z } from "zod";
import type { ContentPart } from "../messages.js";
import type { MemorySetup } from "../models.js";
import { samplingFields, type SamplingParams } from "../sampling.js";
import {
  formatParam,
  responseToolFields,
  type FormatParam,
  type ResponseToolParam,
  type ToolFields,
} from "./answer-form.js";
import { memorySetup, sessionId } from "./common.js";

/** An item of `input`: a message, a call of a function, or the result of one. */
export interface InputItem {
  type?: string | undefined;
  role?: string | undefined;
  content?: string | readonly ContentPart[] | undefined;
  call_id?: string | undefined;
  name?: string | undefined;
  arguments?: string | undefined;
  output?: string | readonly ContentPart[] | undefined;
}

/** A request for a response. */
export interface ResponsesRequest extends SamplingParams, ToolFields<ResponseToolParam> {
  model?: string | null | undefined;
  input: string | InputItem[];
  instructions?: string | null | undefined;
  previous_response_id?: string | null | undefined;
  conversation?: string | { id: string } | null | undefined;
  memory?: MemorySetup | null | undefined;
  store?: boolean | null | undefined;
  stream?: boolean | null | undefined;
  background?: boolean | null | undefined;
  max_output_tokens?: number | null | undefined;
  metadata?: Record<string, string> | null | undefined;
  text?: { format?: FormatParam | null | undefined } | null | undefined;
}

const content = z.union([z.string(), z.array(z.looseObject({ type: z.string(), text: z.string().optional() }))]);

const item: z.ZodType<InputItem> = z.looseObject({
  type: z.string().optional(),
  role: z.string().min(1).max(64).optional(),
  content: content.optional(),
  call_id: z.string().max(128).optional().describe("Of a function_call or function_call_output."),
  name: z.string().max(64).optional(),
  arguments: z.string().optional(),
  output: content.optional().describe("Of a function_call_output."),
});

/** Its schema. */
export const responsesRequest: z.ZodType<ResponsesRequest> = z.object({
  model: z.string().nullish(),
  input: z.union([z.string().min(1), z.array(item).min(1).max(4096)]).describe("Only what is new."),
  instructions: z.string().nullish().describe("A system message. It stays in the memory."),
  previous_response_id: z.string().max(128).nullish().describe("Goes on from the memory that this response left."),
  conversation: z
    .union([sessionId, z.object({ id: sessionId })])
    .nullish()
    .describe("A session, which goes on with the input."),
  memory: memorySetup.nullish().describe("The memory of a first response; later ones go on with it."),
  store: z.boolean().nullish().describe("Whether the memory is kept under the response's id. Default true."),
  stream: z.boolean().nullish(),
  background: z.boolean().nullish().describe("Not supported yet."),
  max_output_tokens: z.int().min(1).nullish(),
  metadata: z.record(z.string().max(64), z.string().max(512)).nullish(),
  text: z.looseObject({ format: formatParam.nullish() }).nullish(),
  ...samplingFields,
  ...responseToolFields,
});
