/** @file The store in memory does what every store must. */

import { MemoryStore } from "#precis/stores/memory-store.js";
import { describeStore } from "./store-suite.js";

describeStore("in-memory", () => {
  const data = new MemoryStore();
  return { open: async () => data.connect() };
});
