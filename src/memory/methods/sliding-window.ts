/** @file Sliding window: each token sees the tokens just before it and nothing older. */
import { defineMethod, type MemoryMethod } from "../method.js";

/** Keep the most recent tokens. */
export const slidingWindow: MemoryMethod = defineMethod({
  name: "sliding-window",
  summary: "Keep the keys and values of the most recent tokens only.",
  needsCompTokens: false,
  options: { window: { default: 256, min: 1, description: "Tokens that a token sees, itself included." } },
  beyondWindow: () => 0,
  create: ({ window }, state = {}) => ({
    state,
    span: window,
    unlimited: true,
    // The band is in the mask, so a long input needs no token-by-token eviction.
    visible: (session, _purpose, positions) => {
      const { row } = session;
      const past = row.length;
      return (query, key) => {
        const position = key < past ? row.positions[key] : positions[key - past];
        return (positions[query] as number) - (position as number) < window;
      };
    },
    async afterRun({ row }) {
      const excess = row.length - window;
      if (excess > 0) row.arrange(Array.from({ length: window }, (_, slot) => slot + excess));
    },
  }),
});
