/**
 * @file When a stream's row [sinks | memory | text] is compressed, and what becomes of its slots: the rules of streaming
 * CCM (arXiv:2312.03414, section 4.3), stated once for inference, which moves rows by them, and for training, which
 * masks by them.
 */

/** How compressed text leaves the row: all of it at once, as published, or token by token as others come. */
export const STREAM_RELEASES = ["once", "gradual"] as const;

/** See {@link STREAM_RELEASES}. */
export type StreamRelease = (typeof STREAM_RELEASES)[number];

/** Sizes of a stream's row, in slots. */
export interface StreamSizes {
  /** Most slots held. */
  window: number;
  /** Oldest tokens of the text that are compressed at once. */
  compress: number;
  /** Most memory slots. */
  memory: number;
  /** First tokens, which are never compressed. */
  sink: number;
  release: StreamRelease;
}

/** A row as its rules see it: slots in all, of memory, and of text that is compressed but has not left yet. */
export interface StreamRow {
  length: number;
  memory: number;
  stale: number;
}

/** What happens to a row that its latest token has made too long. */
export interface StreamStep {
  /** Slots of sinks. */
  sink: number;
  /** Slots of memory before it. */
  memory: number;
  /** Slots that COMP tokens read: the sinks, all of the memory, the oldest text. 0: nothing is compressed. */
  source: number;
  /** Oldest memory slots that are dropped. */
  dropped: number;
  /** Oldest text slots that leave. */
  leaving: number;
  /** Compressed text that stays for now. */
  stale: number;
}

/**
 * The next step of a row, once all tokens of a run are in it.
 * @param compTokens COMP tokens of a compression
 * @returns undefined for a row that fits into the window
 */
export function planStep(sizes: StreamSizes, row: StreamRow, compTokens: number): StreamStep | undefined {
  const excess = row.length - sizes.window;
  if (excess <= 0) return undefined;
  const { memory } = row;
  const sink = Math.min(sizes.sink, row.length);
  if (row.stale >= excess) return { sink, memory, source: 0, dropped: 0, leaving: excess, stale: row.stale - excess };
  // What is stale goes first in any case.
  if (row.stale > 0) return { sink, memory, source: 0, dropped: 0, leaving: row.stale, stale: 0 };
  const source = Math.min(sink + memory + sizes.compress, row.length);
  const dropped = Math.min(memory, Math.max(0, memory + compTokens - sizes.memory));
  const compressed = source - sink - memory;
  const leaving = sizes.release === "once" ? compressed : Math.min(compressed, excess + compTokens - dropped);
  return { sink, memory, source, dropped, leaving, stale: compressed - leaving };
}

/**
 * The slots that a row keeps after a step, in their new order: sinks, memory, COMP slots, text.
 * @param length slots before it
 * @param compTokens COMP slots that it has made, which come after those for now
 */
export function slotsAfter(step: StreamStep, length: number, compTokens: number): number[] {
  const range = (from: number, to: number): number[] =>
    Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
  const text = step.sink + step.memory;
  return [
    ...range(0, step.sink),
    ...range(step.sink + step.dropped, text),
    ...range(length, length + compTokens),
    ...range(text + step.leaving, length),
  ];
}
