/**
 * @file Local attention, a baseline of sentinel compression: a token sees the nearest share of its history. Ren et al.
 * 2023, arXiv:2310.08152.
 */
import { localStart } from "../../sentinel/sparse-rules.js";
import { defineMethod, type MemoryMethod } from "../method.js";

/** Keep the nearest share of everything. */
export const local: MemoryMethod = defineMethod({
  name: "local",
  summary: "Keep the nearest share of the history, so that the cache is smaller by a ratio at any length.",
  paper: "arXiv:2310.08152",
  needsCompTokens: false,
  options: {
    ratio: { default: 0.5, min: 0, max: 0.99, integer: false, description: "Share of the cache to do without." },
  },
  create: ({ ratio }, state = { taken: 0 }) => {
    const taken = (): number => Number(state["taken"]);
    return {
      state,
      visible: (session, _purpose, positions) => {
        const past = session.row.length;
        const indexOf = (token: number): number => taken() + (positions[token] as number) - session.position;
        return (query, key) =>
          (key < past ? taken() - past + key : indexOf(key - past)) >= localStart(indexOf(query), ratio);
      },
      async afterRun({ row }, ids) {
        state["taken"] = taken() + ids.length;
        const dropped = localStart(taken(), ratio) - (taken() - row.length);
        if (dropped > 0) row.arrange(Array.from({ length: row.length - dropped }, (_, slot) => slot + dropped));
      },
    };
  },
});
