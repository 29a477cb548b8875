/**
 * @file Gist: all context so far squeezed into one fixed set of COMP tokens, read anew at every step. Mu et al. 2023,
 * arXiv:2304.08467, with CCM's conditional LoRA in place of full fine-tuning.
 */
import { defineMethod, type MemoryMethod } from "../method.js";
import { runCompTokens } from "./comp-tokens.js";
import { reread } from "./reread.js";

/** Compress the whole context at once. */
export const gist: MemoryMethod = defineMethod({
  name: "gist",
  summary: "Compress the whole context at once into one set of COMP tokens; each step reads all of it again.",
  paper: "arXiv:2304.08467",
  needsCompTokens: true,
  options: { sink: { default: 0, min: 0, description: "First tokens to keep uncompressed, as attention sinks." } },
  create: ({ sink }, state = { context: [] }) => ({
    state,
    defersContext: true,
    async closeStep(session) {
      const context = [...(state["context"] as number[]), ...session.openIds];
      if (context.length === 0) return;
      await reread(session, context, 0, 0);
      state["context"] = context;
      const positions = Array.from({ length: session.compTokens }, (_, k) => session.position + k);
      await runCompTokens(session, positions, undefined, { ...session.openOrigin, firstStep: 1, firstToken: 0 });
      const sinks = Math.min(sink, context.length);
      for (let slot = 0; slot < sinks; slot++) session.row.setKind(slot, "sink");
      const compressed = Array.from({ length: session.compTokens }, (_, k) => context.length + k);
      session.row.arrange([...Array.from({ length: sinks }, (_, slot) => slot), ...compressed]);
    },
  }),
});
