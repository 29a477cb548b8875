/** @file `npm run bench:scaling`: sessions per gigabyte, and days of a million sessions, from measured costs. */
import { parseArgs } from "node:util";
import type * as SizeModule from "../dist/format/sizes.js";
import type * as TableModule from "../dist/cli/table.js";
import { drawTurns, type Habits } from "./scaling/arrivals.js";
import { costsOf, PRECISIONS, readCosts, type Costs } from "./scaling/costs.js";
import { sessionsPerGigabyte } from "./scaling/per-gigabyte.js";
import { simulate, type Outcome, type Serving } from "./scaling/simulate.js";

/** The repository's root, seen from the compiled file. */
const root = new URL("../../", import.meta.url);

async function built<Module>(path: string): Promise<Module> {
  return (await import(new URL(`dist/${path}`, root).href)) as Module;
}

const HELP = `Usage: npm run bench:scaling -- [options]
  --costs FILE         measured costs (default bench/scaling-costs.json, see npm run bench:scaling-costs)
  --sessions N         (default 1000000)
  --days N             of which the last one is counted (default 2)
  --memory GB          keys and values that a server holds at once (default 4)
  --checkpoints N      earlier states that the store keeps (default 0)
  --seed N             (default 1)
  --json               print one JSON object`;

/** What is compared: each method from the store, and full caches that are read again from the text. */
const SCENARIOS = [
  { name: "full, read again", method: "full", rereads: true },
  { name: "full", method: "full", rereads: false },
  { name: "streaming", method: "streaming", rereads: false },
  { name: "ccm-concat", method: "ccm-concat", rereads: false },
  { name: "ccm-merge", method: "ccm-merge", rereads: false },
] as const;

const HABITS: Omit<Habits, "sessions" | "days"> = {
  visitsPerDay: 0.3,
  rhythm: 0.8,
  tail: 1.3,
  mostTurns: 200,
  thinkSeconds: 25,
  age: { median: 20, spread: 1.2 },
};
const SERVING: Omit<Serving, "memoryBytes" | "checkpoints" | "rereads"> = {
  precision: "fp16",
  question: 60,
  answer: 120,
  utilisation: 0.7,
};

async function describe(costs: Costs, results: readonly (Outcome & { name: string })[]): Promise<string> {
  const { formatTable } = await built<typeof TableModule>("cli/table.js");
  const { formatBytes } = await built<typeof SizeModule>("format/sizes.js");
  const right = { align: "right" as const };
  const perGigabyte = sessionsPerGigabyte(costs).map((row) => ({
    method: row.method,
    tokens: row.tokens,
    engine: row.engine,
    ...row.stored,
  }));
  const rows = results.map((result) => ({
    method: result.name,
    servers: result.servers,
    hits: `${(100 * result.hitRate).toFixed(1)} %`,
    resident: result.resident,
    miss: `${result.missMs.toFixed(result.missMs < 10 ? 1 : 0)} ms`,
    paging: `${(100 * result.pagingShare).toFixed(1)} %`,
    store: result.storeBytes === 0 ? "–" : formatBytes(result.storeBytes),
    reads: result.busiest.readsPerSecond.toFixed(0),
    read: `${formatBytes(result.busiest.readBytes)}/s`,
    written: `${formatBytes(result.busiest.writeBytes)}/s`,
  }));
  const first = results[0] as Outcome;
  return [
    `Sessions per GB, after so many tokens (${costs.model}):`,
    formatTable(perGigabyte, [
      "method",
      "tokens",
      { key: "engine", heading: "in the engine" },
      ...PRECISIONS.map((key) => ({ key, heading: `stored ${key}` })),
    ]),
    "",
    `${first.turns} turns on the last day, ${first.busiest.turnsPerSecond.toFixed(0)} a second in the busiest five minutes:`,
    formatTable(rows, [
      "method",
      "servers",
      { key: "hits", heading: "in memory", ...right },
      { key: "resident", heading: "sessions held", ...right },
      { key: "miss", heading: "a miss", ...right },
      { key: "paging", heading: "paging", ...right },
      { key: "store", heading: "store", ...right },
      { key: "reads", heading: "reads/s", ...right },
      { key: "read", heading: "read", ...right },
      { key: "written", heading: "written", ...right },
    ]),
  ].join("\n");
}

const { values } = parseArgs({
  options: {
    costs: { type: "string" },
    sessions: { type: "string", default: "1000000" },
    days: { type: "string", default: "2" },
    memory: { type: "string", default: "4" },
    checkpoints: { type: "string", default: "0" },
    seed: { type: "string", default: "1" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(HELP);
} else {
  const costs = readCosts(values.costs ?? new URL("bench/scaling-costs.json", root));
  const habits = { ...HABITS, sessions: Number(values.sessions), days: Number(values.days) };
  const turns = drawTurns(habits, Number(values.seed));
  const memoryBytes = 1e9 * Number(values.memory);
  const results = SCENARIOS.map(({ name, method, rereads }) => {
    const serving = { ...SERVING, memoryBytes, checkpoints: Number(values.checkpoints), rereads };
    return { name, ...simulate(turns, costs, costsOf(costs, method), serving) };
  });
  console.log(
    values.json
      ? JSON.stringify({ habits, serving: SERVING, memoryBytes, perGigabyte: sessionsPerGigabyte(costs), results })
      : await describe(costs, results),
  );
}
