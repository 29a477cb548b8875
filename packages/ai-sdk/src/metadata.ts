/** @file What the server says of an answer beside its text: what the memory holds, and how long the work took. */
import type { MetadataExtractor } from "@ai-sdk/openai-compatible";
import type { SharedV3ProviderMetadata } from "@ai-sdk/provider";
import { z } from "zod";
import { PROVIDER } from "./options.js";

/** What a memory holds after an answer, beside what a full cache would hold. */
export interface PrecisMemory {
  method: string;
  steps: number;
  tokensSeen: number;
  slots: number;
  bytes: number;
  fullCacheBytes: number;
  ratio: number;
}

/** Timings in llama.cpp's form; `prompt_*` of reading, `predicted_*` of writing, `cache_n` tokens not read again. */
export type PrecisTimings = Readonly<Record<string, number>>;

/** `providerMetadata.precis` of an answer. */
export interface PrecisMetadata {
  /** The session that goes on with the answer, if one was named. */
  session?: string;
  memory?: PrecisMemory;
  timings?: PrecisTimings;
}

const answer = z.object({
  session: z.string().optional(),
  usage: z
    .object({
      memory: z
        .object({
          method: z.string(),
          steps: z.number(),
          tokens_seen: z.number(),
          slots: z.number(),
          bytes: z.number(),
          full_cache_bytes: z.number(),
          ratio: z.number(),
        })
        .optional(),
    })
    .nullish(),
  timings: z.record(z.string(), z.number()).optional(),
});

/** The metadata in an answer or a chunk of one. */
function metadataIn(body: unknown): PrecisMetadata {
  const { success, data } = answer.safeParse(body);
  if (!success) return {};
  const { session, usage, timings } = data;
  const metadata: PrecisMetadata = {};
  if (session !== undefined) metadata.session = session;
  if (usage?.memory !== undefined) {
    const { tokens_seen: tokensSeen, full_cache_bytes: fullCacheBytes, ...rest } = usage.memory;
    metadata.memory = { ...rest, tokensSeen, fullCacheBytes };
  }
  if (timings !== undefined) metadata.timings = timings;
  return metadata;
}

function keyed(metadata: PrecisMetadata): SharedV3ProviderMetadata {
  return { [PROVIDER]: { ...metadata } as SharedV3ProviderMetadata[string] };
}

/** Reads metadata of whole answers and of streams. */
export const metadataExtractor: MetadataExtractor = {
  extractMetadata: ({ parsedBody }) => Promise.resolve(keyed(metadataIn(parsedBody))),
  createStreamExtractor: () => {
    const found: PrecisMetadata = {};
    return {
      processChunk: (chunk) => Object.assign(found, metadataIn(chunk)),
      buildMetadata: () => keyed(found),
    };
  },
};
