/**
 * @file RMT-like recurrence: only the last step's summary vectors are passed on. Bulatov et al. 2022, arXiv:2207.06881;
 * there the read vectors are also the write tokens, and the first memory is learned. Here the write tokens are learned
 * and the memory starts empty, so that AutoCompressor differs in nothing but what is kept.
 */
import { defineMethod, type MemoryMethod } from "../method.js";
import { summarizeOpenStep } from "./recurrent.js";

/** Pass a fixed number of summary vectors from step to step. */
export const rmt: MemoryMethod = defineMethod({
  name: "rmt",
  summary: "Turn the memory and each step into the next memory: a fixed number of vectors in front of the next step.",
  paper: "arXiv:2207.06881",
  needsCompTokens: true,
  needsSummaryGain: true,
  options: {},
  create: (_options, state = {}) => ({
    state,
    async closeStep(session) {
      if (session.openIds.length > 0) await summarizeOpenStep(session, false);
    },
  }),
});
