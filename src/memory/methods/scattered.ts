/**
 * @file Scattered attention, a baseline of sentinel compression: tokens stay in the cache at random. Ren et al. 2023,
 * arXiv:2310.08152.
 */
import { isScatteredKept } from "../../sentinel/sparse-rules.js";
import { defineMethod, type MemoryMethod } from "../method.js";

/** Keep random tokens. */
export const scattered: MemoryMethod = defineMethod({
  name: "scattered",
  summary: "Keep tokens at random, so that the cache is smaller by a ratio; each token still sees itself.",
  paper: "arXiv:2310.08152",
  needsCompTokens: false,
  options: {
    ratio: {
      default: 0.5,
      min: 0,
      max: 0.99,
      integer: false,
      description: "Share of the cache to do without: the probability with which a token is dropped.",
    },
    seed: { default: 0, min: 0, description: "Decides which tokens are kept." },
  },
  create: ({ ratio, seed }, state = { taken: 0 }) => {
    const taken = (): number => Number(state["taken"]);
    return {
      state,
      visible: (session, _purpose, positions) => {
        const past = session.row.length;
        const indexOf = (token: number): number => taken() + (positions[token] as number) - session.position;
        return (query, key) => key < past || key - past === query || isScatteredKept(indexOf(key - past), ratio, seed);
      },
      async afterRun({ row }, ids) {
        const first = row.length - ids.length;
        const kept = ids.flatMap((_, i) => (isScatteredKept(taken() + i, ratio, seed) ? [first + i] : []));
        row.arrange([...Array.from({ length: first }, (_, slot) => slot), ...kept]);
        state["taken"] = taken() + ids.length;
      },
    };
  },
});
