/** @file CCM-concat: Mem(t) = [Mem(t-1); h(t)]. Kim et al. 2024 (ICLR), arXiv:2312.03414, equation 2. */
import { defineMethod, type MemoryMethod } from "../method.js";
import { CCM_SPAN_OPTIONS, ccmSpanState, withSpans } from "../spans/ccm-spans.js";
import { spanStateFits } from "../spans/span-behavior.js";
import { CCM_OPTIONS, ccmVisibility, compressOpenStep, dropOldestMemory } from "./ccm.js";

/** Append each step's COMP keys and values. */
export const ccmConcat: MemoryMethod = defineMethod({
  name: "ccm-concat",
  summary: "Compress each step into the KV of its COMP tokens and append it: a few slots per step.",
  paper: "arXiv:2312.03414",
  needsCompTokens: true,
  options: {
    ...CCM_OPTIONS,
    ...CCM_SPAN_OPTIONS,
    limit: {
      default: 0,
      min: 0,
      description:
        "Most memory slots; the oldest are dropped. 0 keeps all. Adapters know only as many as they were trained with.",
    },
  },
  fits: spanStateFits,
  create: (options, state = ccmSpanState(options)) =>
    withSpans(
      {
        state,
        visible: (session, purpose) => ccmVisibility(options, session, purpose),
        async closeStep(session) {
          if (session.openIds.length === 0) return;
          await compressOpenStep(session, options);
          dropOldestMemory(session.row, options.limit);
        },
      },
      options,
    ),
});
