/** @file Streaming: perplexity along books never trained on, under memories of one size however long the text. */
import { listSources, loadSource, type Source } from "../../data/sources.js";
import type { LanguageModel } from "../../runtime/model.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { sizeOf, type MemorySize, type Observation } from "../case.js";
import type { MethodSpec } from "../method-spec.js";

/** Lengths to report at, in tokens, unless told otherwise. */
export const DEFAULT_LENGTHS: readonly number[] = [1000, 2000, 4000, 8000, 16_000];

/** Texts to read unless told otherwise. */
export const DEFAULT_TEXTS = 4;

/** Tokens that are resampled as one: neighbours hang together. */
const BLOCK_TOKENS = 250;

/** Tokens of a stretch of the curve along streams. */
export const STRETCH_TOKENS = 1000;

/** Characters to read per token, more than any text needs. */
const CHARACTERS_PER_TOKEN = 8;

/** A text as a stream of tokens. */
export interface Stream {
  title: string;
  ids: readonly number[];
}

/** What a method made of a stream. */
export interface StreamRun {
  /** Of every token after the first, in nats. */
  nll: readonly number[];
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
  await using memory = await model.createMemory(spec.memory);
  const nll = await memory.score(stream.ids, { signal, onProgress: ({ done }) => onProgress?.(done) });
  const { slots, tokensSeen: contextTokens } = await memory.stats();
  const peakSlots = await memory.peakSlots();
  return { nll: [...nll], memory: sizeOf({ slots, peakSlots, contextTokens }, model.info.bytesPerSlot) };
}

/** Where a stretch of a stream begins and ends; its results are named by its end. */
export interface Stretch {
  from: number;
  to: number;
}

/** The first tokens of a stream, up to each of these lengths. */
export function beginnings(lengths: readonly number[]): Stretch[] {
  return lengths.map((to) => ({ from: 0, to }));
}

/** Stretches of {@link STRETCH_TOKENS}, one after another; the last one may be shorter. */
export function stretchesOf(length: number): Stretch[] {
  return Array.from({ length: Math.ceil(length / STRETCH_TOKENS) }, (_, index) => ({
    from: index * STRETCH_TOKENS,
    to: Math.min(length, (index + 1) * STRETCH_TOKENS),
  }));
}

/** Blocks of a stream as observations of every stretch that they lie within. */
export function streamObservations(
  stream: Stream,
  { nll, memory }: StreamRun,
  stretches: readonly Stretch[],
): Observation[] {
  const observations: Observation[] = [];
  for (const { from, to } of stretches) {
    const [slots, peakSlots] = [Math.min(memory.slots, to), Math.min(memory.peakSlots, to)];
    const size = sizeOf({ slots, peakSlots, contextTokens: to }, memory.fullBytes / memory.contextTokens);
    for (let start = from; start < to; start += BLOCK_TOKENS) {
      const block = nll.slice(start, Math.min(to, start + BLOCK_TOKENS));
      observations.push({
        step: to,
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
