/** @file How answers are sampled: the fields that chat, completions and responses share. */
import { z } from "zod";
import type { GenerateOptions } from "../index.js";
import { invalidRequest, notSupported } from "./api-error.js";
import type { ServerLimits } from "./options.js";

/** Sampling fields of a request, and those that we refuse rather than ignore. */
export interface SamplingParams {
  temperature?: number | null | undefined;
  top_p?: number | null | undefined;
  top_k?: number | null | undefined;
  min_p?: number | null | undefined;
  repetition_penalty?: number | null | undefined;
  seed?: number | null | undefined;
  stop?: string | string[] | null | undefined;
  ignore_eos?: boolean | null | undefined;
  presence_penalty?: number | null | undefined;
  frequency_penalty?: number | null | undefined;
  logit_bias?: Record<string, number> | null | undefined;
}

/** Schemas of {@link SamplingParams}. */
export const samplingFields: {
  [Name in keyof SamplingParams]-?: z.ZodType<SamplingParams[Name]>;
} = {
  temperature: z.number().min(0).max(100).nullish().describe("0 always takes the likeliest token."),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(0).nullish().describe("Sample among this many likeliest tokens; 0 for all."),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().min(0.01).max(100).nullish(),
  seed: z.int().nullish().describe("Makes sampling reproducible."),
  stop: z
    .union([z.string().min(1), z.array(z.string().min(1)).max(16)])
    .nullish()
    .describe("Texts that end the answer; not part of it."),
  ignore_eos: z.boolean().nullish().describe("Go on past the end of the text, up to the longest answer."),
  presence_penalty: z.number().nullish().describe("Only 0 is supported."),
  frequency_penalty: z.number().nullish().describe("Only 0 is supported."),
  logit_bias: z.record(z.string(), z.number()).nullish().describe("Only empty is supported."),
};

/** Sampling as the library takes it. @throws ApiError 400 for what would change answers and is not built, or too many tokens */
export function samplingOptions(
  params: SamplingParams,
  limits: ServerLimits,
  tokens: { asked: number | null | undefined; param: string },
): GenerateOptions & { maxTokens: number } {
  const penalty = "Use repetition_penalty.";
  if ((params.presence_penalty ?? 0) !== 0) throw notSupported("presence_penalty", "presence_penalty", penalty);
  if ((params.frequency_penalty ?? 0) !== 0) throw notSupported("frequency_penalty", "frequency_penalty", penalty);
  if (Object.keys(params.logit_bias ?? {}).length > 0) throw notSupported("logit_bias", "logit_bias", "Leave it out.");
  const maxTokens = tokens.asked ?? Math.min(limits.defaultTokens, limits.maxTokens);
  if (maxTokens > limits.maxTokens) {
    throw invalidRequest(
      tokens.param,
      `This server answers with at most ${limits.maxTokens} tokens.`,
      "Ask for fewer.",
    );
  }
  const { stop } = params;
  return {
    maxTokens,
    temperature: params.temperature ?? undefined,
    topP: params.top_p ?? undefined,
    topK: params.top_k ?? undefined,
    minP: params.min_p ?? undefined,
    repetitionPenalty: params.repetition_penalty ?? undefined,
    seed: params.seed ?? undefined,
    stop: typeof stop === "string" ? [stop] : (stop ?? undefined),
    ignoreEos: params.ignore_eos ?? undefined,
  };
}
