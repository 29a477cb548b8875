/** @file The request of `/v1/chat/completions`. */
import { z } from "zod";
import type { MessageParam } from "../messages.js";
import type { MemorySetup } from "../models.js";
import { samplingFields, type SamplingParams } from "../sampling.js";
import { chatToolFields, formatParam, type ChatToolParam, type FormatParam, type ToolFields } from "./answer-form.js";
import { memorySetup, messages, sessionId } from "./common.js";

/** A chat request. */
export interface ChatRequest extends SamplingParams, ToolFields<ChatToolParam> {
  model?: string | null | undefined;
  messages: MessageParam[];
  session?: string | null | undefined;
  memory?: MemorySetup | null | undefined;
  stream?: boolean | null | undefined;
  stream_options?: { include_usage?: boolean | null | undefined } | null | undefined;
  max_tokens?: number | null | undefined;
  max_completion_tokens?: number | null | undefined;
  n?: number | null | undefined;
  logprobs?: boolean | null | undefined;
  top_logprobs?: number | null | undefined;
  response_format?: FormatParam | null | undefined;
}

/** Its schema. */
export const chatRequest: z.ZodType<ChatRequest> = z.object({
  model: z.string().nullish().describe("A name of GET /v1/models; default: the first one."),
  messages,
  session: sessionId
    .nullish()
    .describe("A session, which goes on with these messages. Without one, send the whole conversation."),
  memory: memorySetup.nullish().describe("The memory of a conversation sent in full; a session has its own."),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: z.int().min(1).nullish().describe("Older name of max_completion_tokens."),
  max_completion_tokens: z.int().min(1).nullish(),
  n: z.int().min(1).max(16).nullish().describe("Answers to give. A session goes on with the first one."),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  response_format: formatParam.nullish(),
  ...samplingFields,
  ...chatToolFields,
});
