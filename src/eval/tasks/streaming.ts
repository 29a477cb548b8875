/** @file Streaming: perplexity along books never trained on, under memories of one size however long the text. */
import { listSources, loadSource, type Source } from "../../data/sources.js";
import { PrecisError } from "../../errors.js";
import type { LanguageModel } from "../../runtime/model.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { MemorySize, Observation } from "../case.js";
import type { MethodSpec } from "../method-spec.js";

/** Lengths to report at, in tokens, unless told otherwise. */
export const DEFAULT_LENGTHS: readonly number[] = [1000, 2000, 4000, 8000, 16_000];

/** Texts to read unless told otherwise. */
export const DEFAULT_TEXTS = 4;

/** Tokens that are resampled as one: neighbours hang together. */
const BLOCK_TOKENS = 250;

/** Characters to read per token, more than any text needs. */
const CHARACTERS_PER_TOKEN = 8;

/** A text as a stream of tokens. */
export interface Stream {
  title: string;
  ids: readonly number[];
}

/** What a method made of a stream. */
export interface StreamRun {
  nll: Float32Array;
  memory: MemorySize;
}

/** The first tokens of held-out texts that are long enough. */
export async function readStreams(
  tokenizer: Tokenizer,
  options: { dataDir: string; length: number; limit: number; only?: readonly string[] },
): Promise<Stream[]> {
  const streams: Stream[] = [];
  const begin = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  for (const source of await listSources(options.dataDir, { includeResearchOnly: true, only: options.only })) {
    if (source.setting !== "stream") continue;
    for (const { title, text } of (await loadSource(source as Source<"stream">, "test")).records) {
      if (streams.length === options.limit) return streams;
      const excerpt = text.slice(0, options.length * CHARACTERS_PER_TOKEN);
      const ids = [...begin, ...tokenizer.encode(excerpt, { addSpecialTokens: false, allowSpecial: false })];
      // One more than is scored, since the first token has nothing before it.
      if (ids.length > options.length) streams.push({ title, ids: ids.slice(0, options.length + 1) });
    }
  }
  return streams;
}

/** Reads a stream through a new memory. */
export async function runStream(
  model: LanguageModel,
  spec: MethodSpec,
  stream: Stream,
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: (done: number) => void },
): Promise<StreamRun> {
  if (spec.shuffled) {
    throw new PrecisError("OPTION_INVALID", "A stream has no memory that could be shuffled.", {
      value: spec.label,
      nextStep: "Leave shuffled out for streaming.",
    });
  }
  await using memory = await model.createMemory(spec.memory);
  const nll = await memory.score(stream.ids, { signal, onProgress: ({ done }) => onProgress?.(done) });
  const { slots, bytes, tokensSeen, fullCacheBytes } = await memory.stats();
  const window = memory.options["window"];
  const compTokens = memory.adapter?.compTokens ?? 0;
  // What lies between two stats is bounded by the window, which the row reaches again and again.
  const peakSlots = Math.max(slots, typeof window === "number" && tokensSeen > window ? window : slots) + compTokens;
  const peakBytes = peakSlots * model.info.bytesPerSlot;
  return {
    nll,
    memory: { slots, bytes, peakSlots, peakBytes, contextTokens: tokensSeen, fullBytes: fullCacheBytes },
  };
}

/** Blocks of a stream as observations of every length that they lie within. */
export function streamObservations(
  stream: Stream,
  { nll, memory }: StreamRun,
  lengths: readonly number[],
): Observation[] {
  const observations: Observation[] = [];
  const bytesPerToken = memory.fullBytes / memory.contextTokens;
  for (const length of lengths) {
    const size = { ...memory, contextTokens: length, fullBytes: length * bytesPerToken };
    for (let start = 0; start < length; start += BLOCK_TOKENS) {
      const block = nll.subarray(start, Math.min(length, start + BLOCK_TOKENS));
      observations.push({
        step: length,
        stratum: stream.title,
        cluster: `${stream.title}/${start}`,
        memory: size,
        nll: block.reduce((sum, value) => sum + value, 0),
        tokens: block.length,
      });
    }
  }
  return observations;
}

/** Perplexity of each stretch of the streams together. */
export function streamCurve(runs: readonly StreamRun[], stretches = 32): { position: number; perplexity: number }[] {
  const length = Math.min(...runs.map(({ nll }) => nll.length));
  const width = Math.max(1, Math.ceil(length / stretches));
  const curve = [];
  for (let start = 0; start < length; start += width) {
    const end = Math.min(length, start + width);
    const sums = runs.map(({ nll }) => nll.subarray(start, end).reduce((sum, value) => sum + value, 0));
    const mean = sums.reduce((sum, value) => sum + value, 0) / (runs.length * (end - start));
    curve.push({ position: end, perplexity: Math.exp(mean) });
  }
  return curve;
}
