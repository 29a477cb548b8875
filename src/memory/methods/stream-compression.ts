/**
 * @file When a stream's row [sinks | memory | text] is compressed, and what becomes of its slots: the rules of streaming
 * CCM (arXiv:2312.03414, section 4.3), stated once for inference, which moves rows by them, and for training, which
 * masks by them.
 */

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
}

/** One compression of a row. */
export interface StreamCompression {
  /** Slots of sinks. */
  sink: number;
  /** Slots of memory before it. */
  memory: number;
  /** Slots that COMP tokens read: the sinks, all of the memory, the oldest text. */
  source: number;
  /** Oldest memory slots that are dropped after it. */
  dropped: number;
}

/**
 * The compression that a row needs: one as soon as it is longer than the window, which its latest token has made it.
 * @param row slots in all, and of memory
 * @returns undefined for a row that fits into the window
 */
export function planCompression(
  { window, compress, memory, sink }: StreamSizes,
  row: { length: number; memory: number },
  compTokens: number,
): StreamCompression | undefined {
  if (row.length <= window) return undefined;
  const sinks = Math.min(sink, row.length);
  return {
    sink: sinks,
    memory: row.memory,
    source: Math.min(sinks + row.memory + compress, row.length),
    dropped: Math.min(row.memory, Math.max(0, row.memory + compTokens - memory)),
  };
}

/**
 * The slots that a row keeps after a compression, in their new order: sinks, memory, the COMP slots, the other text.
 * @param length slots before it
 * @param compTokens COMP slots, which come after those for now
 */
export function slotsAfter(plan: StreamCompression, length: number, compTokens: number): number[] {
  const range = (from: number, to: number): number[] =>
    Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
  return [
    ...range(0, plan.sink),
    ...range(plan.sink + plan.dropped, plan.sink + plan.memory),
    ...range(length, length + compTokens),
    ...range(plan.source, length),
  ];
}
