import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Each file may start an engine worker that uses both cores of a small machine.
    maxWorkers: 2,
    pool: "forks",
  },
});
