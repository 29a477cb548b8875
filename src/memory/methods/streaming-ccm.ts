/**
 * @file Streaming CCM: a window whose oldest tokens are compressed into a bounded memory, with positions renumbered by
 * slot. Kim et al. 2024 (ICLR), arXiv:2312.03414, section 4.3. Merging averages keys before rotation, at the slot's
 * own place.
 */
import type { MemorySession } from "../session.js";
import { defineMethod, type MemoryMethod } from "../method.js";

/** [sinks | memory | the oldest text]: what the COMP tokens read, and where the memory starts. */
interface Source {
  sink: number;
  memory: number;
  length: number;
}

/** Slots after a compression: sinks, memory, the new COMP slots, the text that was not compressed. */
function arrangeCompressed({ row, compTokens }: MemorySession, source: Source, dropped: number): void {
  const newest = row.length - compTokens;
  const range = (from: number, to: number): number[] =>
    Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
  row.arrange([
    ...range(0, source.sink),
    ...range(source.sink + dropped, source.sink + source.memory),
    ...range(newest, row.length),
    ...range(source.length, newest),
  ]);
}

/** Averages the new COMP slots into the memory: M ← (1 - 1/count) M + 1/count h, both at the memory's positions. */
function mergeCompressed(session: MemorySession, source: Source, count: number): void {
  const { row, compTokens } = session;
  const newest = row.length - compTokens;
  for (let k = 0; k < compTokens; k++) {
    const slot = source.sink + k;
    session.moveTo(newest + k, slot);
    row.blend(slot, newest + k, 1 / count);
  }
  row.arrange(
    row.positions.flatMap((_, slot) =>
      slot < source.sink + compTokens || (slot >= source.length && slot < newest) ? [slot] : [],
    ),
  );
}

/** Compress what leaves the window. */
export const streamingCcm: MemoryMethod = defineMethod({
  name: "streaming-ccm",
  summary: "A window whose oldest tokens are compressed into a bounded memory; input may be endless.",
  paper: "arXiv:2312.03414",
  needsCompTokens: true,
  options: {
    window: { default: 160, min: 2, description: "Most KV slots held: sinks, memory and text." },
    compress: { default: 64, min: 1, description: "Tokens compressed at once when the window is full." },
    memory: { default: 8, min: 1, description: "Most memory slots; the oldest are dropped (concat only)." },
    sink: { default: 1, min: 0, description: "First tokens that are never compressed." },
    update: {
      default: "concat",
      choices: ["concat", "merge"],
      description: "Append compressed slots, or average them into a fixed number.",
    },
  },
  // The token that makes the window too full, and the COMP tokens that then compress.
  beyondWindow: (compTokens) => 1 + compTokens,
  create: (options, state = { compressions: 0 }) => ({
    state,
    unlimited: true,
    runLength: ({ row }) => Math.max(1, options.window + 1 - row.length),
    async afterRun(session) {
      const { row } = session;
      if (row.length <= options.window) return;
      const count = Number(state["compressions"]) + 1;
      for (let slot = 0; slot < Math.min(options.sink, row.length); slot++) row.setKind(slot, "sink");
      const memory = row.kinds.filter((kind) => kind === "memory").length;
      const sink = Math.min(options.sink, row.length);
      const source = { sink, memory, length: Math.min(sink + memory + options.compress, row.length) };
      const past = row.length;
      const positions = Array.from({ length: session.compTokens }, (_, k) => source.length + k);
      await session.compress(positions, (_query, key) => key < source.length || key >= past);
      if (options.update === "merge" && count > 1) mergeCompressed(session, source, count);
      else arrangeCompressed(session, source, Math.max(0, memory + session.compTokens - options.memory));
      state["compressions"] = count;
      session.renumber();
    },
  }),
});
