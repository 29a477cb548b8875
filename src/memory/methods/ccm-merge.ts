/**
 * @file CCM-merge: Mem(t) = (1 - a_t) Mem(t-1) + a_t h(t). Kim et al. 2024 (ICLR), arXiv:2312.03414, equation 3; the
 * exponential moving average is the ablation of its table 16. Keys are averaged after RoPE, as in training.
 */
import { defineMethod, type MemoryMethod } from "../method.js";
import { CCM_SPAN_OPTIONS, ccmSpanState, withSpans } from "../spans/ccm-spans.js";
import { spanStateFits } from "../spans/span-behavior.js";
import { CCM_OPTIONS, ccmVisibility, compressOpenStep } from "./ccm.js";

/** Average each step's COMP keys and values into a memory of fixed size. */
export const ccmMerge: MemoryMethod = defineMethod({
  name: "ccm-merge",
  summary: "Compress each step into the KV of its COMP tokens and average it into a memory of fixed size.",
  paper: "arXiv:2312.03414",
  needsCompTokens: true,
  options: {
    ...CCM_OPTIONS,
    ...CCM_SPAN_OPTIONS,
    average: {
      default: "mean",
      choices: ["mean", "ema"],
      description: "Arithmetic mean of all steps, or exponential moving average.",
    },
    decay: {
      default: 0.5,
      min: 0,
      max: 1,
      integer: false,
      description: "Weight of the newest step in the moving average.",
    },
  },
  fits: spanStateFits,
  create: (options, state = { merged: 0, ...ccmSpanState(options) }) =>
    withSpans(
      {
        state,
        visible: (session, purpose) => ccmVisibility(options, session, purpose),
        async closeStep(session) {
          if (session.openIds.length === 0) return;
          const first = await compressOpenStep(session, options);
          const merged = Number(state["merged"]) + 1;
          state["merged"] = merged;
          if (merged === 1) return;
          const weight = options.average === "ema" ? options.decay : 1 / merged;
          for (let k = 0; k < session.compTokens; k++)
            session.row.blend(first - session.compTokens + k, first + k, weight);
          session.row.truncate(first);
        },
      },
      options,
    ),
});
