/** @file What a turn cost: tokens in OpenAI's form, the memory beside the full cache, and timings as llama.cpp gives them. */
import type { GenerationResult, MemoryStats } from "../index.js";
import type { TurnOutcome } from "./turns.js";

/** What a memory holds, in snake case. */
export interface MemoryUsage {
  method: string;
  steps: number;
  tokens_seen: number;
  slots: number;
  bytes: number;
  full_cache_bytes: number;
  ratio: number;
}

/** Tokens of a turn. */
export interface TokenCounts {
  /** All tokens of the request's text. */
  prompt: number;
  /** Those of them that were in memory already. */
  cached: number;
  generated: number;
}

/** Stats of a memory as the API shows them. */
export function memoryUsage(stats: MemoryStats): MemoryUsage {
  const { method, steps, tokensSeen, slots, bytes, fullCacheBytes, ratio } = stats;
  return { method, steps, tokens_seen: tokensSeen, slots, bytes, full_cache_bytes: fullCacheBytes, ratio };
}

/** @param repeats whether the request repeats what the memory has seen, which then counts as cached */
export function tokenCounts({ choices, before, history }: TurnOutcome, repeats: boolean): TokenCounts {
  const cached = repeats ? before.tokensSeen : 0;
  const read = history.tokens + (choices[0] as GenerationResult).timings.promptTokens;
  const generated = choices.reduce((sum, { timings }) => sum + timings.generatedTokens, 0);
  return { prompt: cached + read, cached, generated };
}

/** The `usage` of a chat or text completion. */
export function completionUsage(outcome: TurnOutcome, counts: TokenCounts): object {
  return {
    prompt_tokens: counts.prompt,
    completion_tokens: counts.generated,
    total_tokens: counts.prompt + counts.generated,
    prompt_tokens_details: { cached_tokens: counts.cached },
    memory: memoryUsage(outcome.after),
  };
}

/** The `timings` of a turn: `prompt_*` of reading, `predicted_*` of the first answer, `cache_n` tokens not read again. */
export function turnTimings({ choices, history }: TurnOutcome, { cached }: TokenCounts): object {
  const { timings } = choices[0] as GenerationResult;
  const promptTokens = history.tokens + timings.promptTokens;
  const promptMs = history.ms + timings.promptMs;
  const { generatedTokens, generateMs } = timings;
  const rates = (name: string, count: number, ms: number): object => ({
    [`${name}_n`]: count,
    [`${name}_ms`]: ms,
    [`${name}_per_token_ms`]: count === 0 ? 0 : ms / count,
    [`${name}_per_second`]: ms === 0 ? 0 : (1000 * count) / ms,
  });
  return {
    cache_n: cached,
    ...rates("prompt", promptTokens, promptMs),
    ...rates("predicted", generatedTokens, generateMs),
  };
}
