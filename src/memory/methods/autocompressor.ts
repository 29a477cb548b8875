/** @file AutoCompressor: summary vectors of all steps as a soft prompt. Chevalier et al. 2023, arXiv:2305.14788. */
import { defineMethod, type MemoryMethod } from "../method.js";
import { renumberSlots } from "../slot-positions.js";
import { dropOldestMemory } from "./ccm.js";
import { summarizeOpenStep } from "./recurrent.js";

/** Append each step's summary vectors to the soft prompt of later steps. */
export const autocompressor: MemoryMethod = defineMethod({
  name: "autocompressor",
  summary: "Turn each step into summary vectors, read as a growing soft prompt by the steps that follow.",
  paper: "arXiv:2305.14788",
  needsCompTokens: true,
  needsSummaryGain: true,
  options: {
    limit: {
      default: 0,
      min: 0,
      description:
        "Most memory slots; the oldest are dropped and the others renumbered. 0 keeps all. Adapters know only as many as they were trained with.",
    },
  },
  create: (options, state = {}) => ({
    state,
    async closeStep(session) {
      if (session.openIds.length === 0) return;
      await summarizeOpenStep(session, true);
      dropOldestMemory(session.row, options.limit);
      if (session.row.length < session.position) renumberSlots(session);
    },
  }),
});
