/**
 * @file Streaming CCM: a window whose oldest tokens are compressed into a bounded memory, with positions renumbered by
 * slot, as published, or as they are in the text. Kim et al. 2024 (ICLR), arXiv:2312.03414, section 4.3. Merging
 * averages keys before rotation, all at the same place.
 */
import type { MemorySession } from "../session.js";
import { defineMethod, type MemoryMethod } from "../method.js";
import { planCompression, slotsAfter, type StreamCompression } from "./stream-compression.js";

/** Averages the new COMP slots into the memory, at the same positions: M ← (1 - 1/count) M + 1/count h. */
function mergeCompressed(session: MemorySession, plan: StreamCompression, count: number, bySlot: boolean): void {
  const { row, compTokens } = session;
  const newest = row.length - compTokens;
  for (let k = 0; k < compTokens; k++) {
    const slot = plan.sink + k;
    // Numbered as in the text, a memory of everything so far stands where its latest part does.
    if (bySlot) session.moveTo(newest + k, slot);
    else session.moveTo(slot, row.positions[newest + k] as number);
    row.blend(slot, newest + k, 1 / count);
  }
  row.arrange(
    row.positions.flatMap((_, slot) =>
      slot < plan.sink + compTokens || (slot >= plan.source && slot < newest) ? [slot] : [],
    ),
  );
}

/**
 * Keeps positions of the text within what the model was made for: only their differences matter, and what is held is
 * near. Sinks stay, so that they are never farther than that from anything either.
 * @param coming most positions that are needed before this is asked again
 */
function keepNear(session: MemorySession, sink: number, coming: number): void {
  const { row, position, runner } = session;
  if (position + coming <= runner.config.maxPositions || row.length <= sink) return;
  session.moveBack(sink, Math.min(...row.positions.slice(sink)) - sink);
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
    positions: {
      default: "slot",
      choices: ["slot", "text"],
      description:
        "Number what is held by its slots, as published, or leave it at its distance in the text, as `precis train --method streaming-ccm` trains it.",
    },
  },
  // The token that makes the window too full, and the COMP tokens that then compress.
  beyondWindow: (compTokens) => 1 + compTokens,
  create: (options, state = { compressions: 0 }) => ({
    state,
    unlimited: true,
    runLength: ({ row }) => Math.max(1, options.window + 1 - row.length),
    async afterRun(session) {
      const { row, compTokens } = session;
      const past = row.length;
      const memory = row.kinds.filter((kind) => kind === "memory").length;
      const plan = planCompression(options, { length: past, memory }, compTokens);
      if (plan === undefined) return;
      const count = Number(state["compressions"]) + 1;
      const bySlot = options.positions === "slot";
      for (let slot = 0; slot < plan.sink; slot++) row.setKind(slot, "sink");
      // Right behind the text that they compress, where what comes next also begins.
      const first = (row.positions[plan.source - 1] as number) + 1;
      const positions = Array.from({ length: compTokens }, (_, k) => first + k);
      await session.compress(positions, (_query, key) => key < plan.source || key >= past);
      if (options.update === "merge" && count > 1) mergeCompressed(session, plan, count, bySlot);
      else row.arrange(slotsAfter(plan, past, compTokens));
      state["compressions"] = count;
      if (bySlot) session.renumber();
      else keepNear(session, plan.sink, Math.max(1, options.window + 1 - row.length) + compTokens);
    },
  }),
});
