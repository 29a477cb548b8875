/** @file The plain KV cache: every token keeps its keys and values. The ceiling that compression is measured against. */
import { defineMethod, type MemoryMethod } from "../method.js";

/** Keep everything. */
export const full: MemoryMethod = defineMethod({
  name: "full",
  summary: "Keep every key and value: the plain KV cache.",
  needsCompTokens: false,
  options: {},
  create: (_options, state = {}) => ({ state, appendOnly: true }),
});
