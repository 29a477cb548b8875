/** @file What a call may say to Precis beside what the AI SDK knows: `providerOptions.precis`. */
import type { SharedV3ProviderOptions } from "@ai-sdk/provider";
import { parseProviderOptions } from "@ai-sdk/provider-utils";
import { z } from "zod";

/** Key of our options and metadata. */
export const PROVIDER = "precis";

/** Which memory to make; what is left out, the server decides. */
export interface PrecisMemorySetup {
  /** A memory method, such as `"ccm-concat"` or `"streaming"`. */
  method?: string | undefined;
  /** Name of an adapter, see `GET /v1/models`. */
  adapter?: string | undefined;
  /** A sentinel adapter beside it, for spans within steps. */
  spanAdapter?: string | undefined;
  /** Options of the method. */
  options?: Record<string, string | number | boolean> | undefined;
}

/** `providerOptions.precis` of a call. */
export interface PrecisModelOptions {
  /** A session of the server. It remembers, so that of the prompt only the new turn is sent. */
  session?: string | undefined;
  /** The memory of a session that has to be made, or without a session that of a conversation sent in full. */
  memory?: PrecisMemorySetup | undefined;
  /** Sample among tokens that are at least this likely, relative to the likeliest. */
  minP?: number | undefined;
  /** Above 1 makes repeated tokens less likely. */
  repetitionPenalty?: number | undefined;
  /** Go on past the end of the text, up to `maxOutputTokens`. */
  ignoreEos?: boolean | undefined;
}

const memorySetup: z.ZodType<PrecisMemorySetup> = z.strictObject({
  method: z.string().optional(),
  adapter: z.string().optional(),
  spanAdapter: z.string().optional(),
  options: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
});

const modelOptions: z.ZodType<PrecisModelOptions> = z.strictObject({
  session: z.string().min(1).optional(),
  memory: memorySetup.optional(),
  minP: z.number().optional(),
  repetitionPenalty: z.number().optional(),
  ignoreEos: z.boolean().optional(),
});

/** Our options of a call. @throws InvalidArgumentError for those that we do not know, or of the wrong type */
export async function readOptions(providerOptions: SharedV3ProviderOptions | undefined): Promise<PrecisModelOptions> {
  return (await parseProviderOptions({ provider: PROVIDER, providerOptions, schema: modelOptions })) ?? {};
}

/** A memory setup as the server takes it. */
export function setupFields({ spanAdapter, ...setup }: PrecisMemorySetup): Record<string, unknown> {
  return { ...setup, span_adapter: spanAdapter };
}
