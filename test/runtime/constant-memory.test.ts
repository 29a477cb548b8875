/** @file A conversation of 10,000 tokens on the embedded model does not make the process grow. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

const root = new URL("../../", import.meta.url);
const model = fileURLToPath(new URL("models/precis-28m", root));

/** Appends 200 steps of 50 tokens, answers now and then, and prints the resident set after steps 50 and 200. */
const PROGRAM = `
import { setFlagsFromString } from "node:v8";
import { loadModel } from ${JSON.stringify(new URL("dist/index.js", root).href)};
// The space for young objects grows in its own time, by more than what is to be noticed here; threads take this over.
for (const flag of ["--semi-space-growth-factor=1", "--max-semi-space-size=4"]) setFlagsFromString(flag);
const [directory, method, adapter] = process.argv.slice(1);
const model = await loadModel(directory, { device: "cpu" });
const memory = await model.createMemory({ method, adapter: adapter || undefined });
const resident = {};
let seed = 1;
for (let step = 1; step <= 200; step++) {
  const ids = Array.from({ length: 50 }, () => 32 + ((seed = (seed * 1664525 + 1013904223) % 2 ** 32) % 8000));
  await memory.append(ids);
  if (step % 10 === 0) await memory.answer([5, 6, 7], { maxTokens: 4, ignoreEos: true, remember: false });
  if (step === 50 || step === 200) resident[step] = process.memoryUsage().rss;
}
console.log(JSON.stringify({ resident, stats: await memory.stats() }));
await model.dispose();
`;

interface Outcome {
  resident: { 50: number; 200: number };
  stats: { tokensSeen: number; slots: number };
}

async function converse(method: string, adapter: string): Promise<Outcome> {
  const args = ["--input-type=module", "--eval", PROGRAM, model, method, adapter];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  return JSON.parse(stdout) as Outcome;
}

describe("10,000 tokens on the embedded model", () => {
  test.each([
    ["ccm-merge", `${model}/adapters/ccm-merge`, 9],
    ["ccm-concat", `${model}/adapters/ccm-concat`, 65],
  ])("%s: the resident set after step 200 is within 5% of step 50", async (method, adapter, mostSlots) => {
    const { resident, stats } = await converse(method, adapter);
    expect(stats.tokensSeen).toBe(10_000);
    expect(stats.slots).toBeLessThanOrEqual(mostSlots);
    expect(resident[200] / resident[50]).toBeLessThan(1.05);
  });
});
