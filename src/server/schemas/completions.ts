/** @file The requests of `/v1/completions` and `/v1/embeddings`. */
import { z } from "zod";
import { samplingFields, type SamplingParams } from "../sampling.js";
import { sessionId } from "./common.js";

/** Texts, or token ids of texts. */
export type TextInput = string | string[] | number[] | number[][];

const ids = z.array(z.int().min(0)).min(1);

/** Its schema. */
export const textInput: z.ZodType<TextInput> = z.union([
  z.string().min(1),
  ids,
  z.array(z.string().min(1)).min(1).max(64),
  z.array(ids).min(1).max(64),
]);

/** A text completion request. */
export interface CompletionRequest extends SamplingParams {
  model?: string | null | undefined;
  prompt: TextInput;
  session?: string | null | undefined;
  stream?: boolean | null | undefined;
  stream_options?: { include_usage?: boolean | null | undefined } | null | undefined;
  max_tokens?: number | null | undefined;
  n?: number | null | undefined;
  logprobs?: number | null | undefined;
  echo?: boolean | null | undefined;
  suffix?: string | null | undefined;
  best_of?: number | null | undefined;
}

/** Its schema. */
export const completionRequest: z.ZodType<CompletionRequest> = z.object({
  model: z.string().nullish(),
  prompt: textInput.describe("Text or token ids; several only without a session."),
  session: sessionId
    .nullish()
    .describe("A session, which goes on with the prompt. Without one, nothing is remembered."),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  max_tokens: z.int().min(1).nullish(),
  n: z.int().min(1).max(16).nullish(),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.boolean().nullish().describe("Not supported yet."),
  suffix: z.string().nullish().describe("Not supported yet."),
  best_of: z.int().nullish().describe("Not supported yet."),
  ...samplingFields,
});

/** A request for embeddings. */
export interface EmbeddingsRequest {
  model?: string | null | undefined;
  input: TextInput;
  encoding_format?: "float" | "base64" | null | undefined;
  dimensions?: number | null | undefined;
}

/** Its schema. */
export const embeddingsRequest: z.ZodType<EmbeddingsRequest> = z.object({
  model: z.string().nullish(),
  input: textInput,
  encoding_format: z.enum(["float", "base64"]).nullish(),
  dimensions: z.int().nullish().describe("Only the model's own size is supported."),
});
