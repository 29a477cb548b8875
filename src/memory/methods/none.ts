/** @file No context at all: each step is forgotten as it ends. The floor that compression is measured against. */
import { defineMethod, type MemoryMethod } from "../method.js";

/** Keep nothing. */
export const none: MemoryMethod = defineMethod({
  name: "none",
  summary: "Forget each step as it ends; only the current input is seen.",
  needsCompTokens: false,
  options: {},
  create: (_options, state = {}) => ({
    state,
    // Nothing before the input exists for the model, so context need not even be read.
    defersContext: true,
    async closeStep(session) {
      session.row.truncate(0);
      session.position = 0;
    },
  }),
});
