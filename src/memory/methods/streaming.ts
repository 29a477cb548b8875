/**
 * @file Attention sink and window with positions renumbered by slot, so that input may be endless. Xiao et al. 2024
 * (StreamingLLM), arXiv:2309.17453.
 */
import { defineMethod, type MemoryMethod } from "../method.js";
import { renumberSlots } from "../slot-positions.js";

/** Keep the first tokens and the most recent ones. */
export const streaming: MemoryMethod = defineMethod({
  name: "streaming",
  summary: "Keep the first tokens (attention sinks) and the most recent ones, renumbered by slot.",
  paper: "arXiv:2309.17453",
  needsCompTokens: false,
  options: {
    window: { default: 256, min: 2, description: "Most KV slots held, sinks included." },
    sink: { default: 4, min: 0, description: "First tokens that are never dropped." },
    evict: { default: 32, min: 1, description: "Tokens dropped at once when the window is full." },
    paceSlots: {
      default: 0,
      min: 0,
      description:
        "For comparisons at equal length: keep this many more slots per eviction, as a compressor would write them …",
    },
    paceLimit: { default: 0, min: 0, description: "… up to this many in all." },
  },
  // The token that makes the window too full.
  beyondWindow: () => 1,
  create: ({ window, sink, evict, paceSlots, paceLimit }, state = { paced: 0 }) => ({
    state,
    unlimited: true,
    runLength: ({ row }) => Math.max(1, window + 1 - row.length),
    async afterRun(session) {
      const { row } = session;
      if (row.length <= window) return;
      const paced = Number(state["paced"]);
      const spared = Math.min(paceSlots, paceLimit - paced);
      state["paced"] = paced + spared;
      const dropped = Math.max(1, Math.min(evict - spared, row.length - sink));
      const slots = Array.from({ length: row.length }, (_, slot) => slot);
      row.arrange([...slots.slice(0, sink), ...slots.slice(sink + dropped)]);
      renumberSlots(session);
    },
  }),
});
