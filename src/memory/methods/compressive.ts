/**
 * @file Pooled keys and values: the baseline that CCM's paper (Kim et al. 2024, arXiv:2312.03414) calls Compressive
 * Transformer. It is the idea of Rae et al. 2020 (arXiv:1911.05507), compress c rows into 1 as they leave, on a pretrained
 * decoder: mean pooling of the keys after RoPE and of the values, no second memory, no loss of its own.
 */
import { poolSizes } from "../../train/pooling.js";
import { defineMethod, type MemoryMethod } from "../method.js";
import { CCM_OPTIONS, ccmVisibility, dropOldestMemory, settleOpenStep } from "./ccm.js";

/** Average runs of neighbouring rows of each step and append the means. */
export const compressive: MemoryMethod = defineMethod({
  name: "compressive",
  summary: "Average runs of neighbouring keys and values of each step and append the means; better with its own LoRA.",
  paper: "arXiv:1911.05507",
  needsCompTokens: false,
  options: {
    ...CCM_OPTIONS,
    pool: { default: 4, min: 1, description: "Tokens per slot; 1 keeps every token. Without effect if slots is set." },
    slots: { default: 0, min: 0, description: "Slots per step, however long it is; 0 goes by pool." },
    limit: { default: 0, min: 0, description: "Most memory slots; the oldest are dropped. 0 keeps all." },
  },
  create: (options, state = {}) => ({
    state,
    visible: (session, purpose) => ccmVisibility(options, session, purpose),
    async closeStep(session) {
      if (session.openIds.length === 0) return;
      await settleOpenStep(session, options);
      const { row } = session;
      const first = row.kinds.indexOf("text");
      // A step of sinks only.
      if (first < 0) return;
      const tokens = row.length - first;
      row.pool(first, poolSizes(tokens, options.slots === 0 ? Math.ceil(tokens / options.pool) : options.slots));
      dropOldestMemory(row, options.limit);
    },
  }),
});
