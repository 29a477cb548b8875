/** @file `npm run bench:scaling-costs`: measures what a session costs, for the arithmetic and the simulation of docs/scaling.md. */
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type * as Precis from "../dist/index.js";
import type * as Server from "../dist/server/index.js";
import {
  PRECISIONS,
  readCosts,
  type CostPoint,
  type Costs,
  type MethodCosts,
  type Precision,
} from "./scaling/costs.js";
import { cheaperOf } from "./scaling/faster.js";

/** The repository's root, seen from the compiled file. */
const root = new URL("../../", import.meta.url);

async function built<Module>(path: string): Promise<Module> {
  return (await import(new URL(`dist/${path}`, root).href)) as Module;
}

const HELP = `Usage: npm run bench:scaling-costs -- [options]
  --model DIR    folder of the model (default models/precis-28m)
  --dtype TYPE   how weights are held (default fp32, as precis serve)
  --store URL    redis://… of a store to measure; default: a folder of files
  --rounds N     repetitions, of which the fastest counts (default 5)
  --output FILE  where to write (default bench/scaling-costs.json)
  --again        keep what an earlier run measured cheaper: for machines that do other work beside`;

/** The memories that are measured. */
const METHODS = [
  { method: "full" },
  { method: "streaming", options: { window: 256 } },
  { method: "ccm-concat", adapter: "adapters/ccm-concat" },
  { method: "ccm-merge", adapter: "adapters/ccm-merge" },
] as const;

/** Messages after which a memory is looked at. */
const POINTS = [4, 16, 32, 40, 80] as const;
/** The last of them that a full cache of the embedded model has room for. */
const LAST_OF_FULL = 40;
const BATCH = 8;
const ANSWER_TOKENS = 32;

interface Bench {
  model: Precis.LanguageModel;
  store: Precis.SessionStore;
  messages: readonly Precis.ChatMessage[];
  folder: string;
  rounds: number;
}

/** The fastest of some runs in milliseconds: what the machine does beside only ever adds. */
async function fastest(rounds: number, work: () => Promise<void>): Promise<number> {
  let best = Infinity;
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    await work();
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

async function measurePoint(
  { model, store, rounds }: Bench,
  memory: Precis.Memory,
  { messages, adapter }: { messages: number; adapter: string | undefined },
): Promise<CostPoint> {
  const { tokensSeen, slots, bytes } = await memory.stats();
  const sizes: [Precision, number][] = [];
  for (const precision of PRECISIONS) sizes.push([precision, (await memory.snapshot({ precision })).byteLength]);
  const key = { namespace: "bench", id: "session" };
  const saveMs = await fastest(rounds, async () => {
    const snapshot = await memory.snapshot({ precision: "fp16" });
    const current = await store.get(key);
    await store.put(key, { bytes: snapshot, metadata: {} }, current?.version);
  });
  const restoreMs = await fastest(rounds, async () => {
    const found = (await store.get(key)) as Precis.StoredSession;
    const restored = await model.restoreMemory(found.bytes, { adapter });
    await restored.dispose();
  });
  const snapshots = Object.fromEntries(sizes) as Record<Precision, number>;
  return { messages, tokens: tokensSeen, slots, bytes, snapshots, saveMs, restoreMs };
}

/** Rates of reading and writing with a memory of middle size, answers of several sessions at once. */
async function measureRates(
  { messages, rounds }: Bench,
  memory: Precis.Memory,
): Promise<Pick<MethodCosts, "promptRate" | "answerRate" | "commitMs">> {
  const input = [messages[POINTS[1]] as Precis.ChatMessage];
  const options = { maxTokens: ANSWER_TOKENS, ignoreEos: true, temperature: 0 };
  let [promptRate, answerRate, commitMs] = [0, 0, Infinity];
  for (let round = 0; round < rounds; round++) {
    const alone = await memory.fork();
    const start = performance.now();
    const { timings } = await alone.answer(input, options);
    const total = performance.now() - start;
    await alone.dispose();
    promptRate = Math.max(promptRate, (1000 * timings.promptTokens) / timings.promptMs);
    commitMs = Math.min(commitMs, total - timings.promptMs - timings.generateMs);
    const branches = await Promise.all(Array.from({ length: BATCH }, () => memory.fork()));
    const ends = await Promise.all(branches.map((branch) => branch.answer(input, options)));
    await Promise.all(branches.map((branch) => branch.dispose()));
    const longest = Math.max(...ends.map((end) => end.timings.generateMs));
    const written = ends.reduce((sum, end) => sum + end.timings.generatedTokens, 0);
    answerRate = Math.max(answerRate, (1000 * written) / longest);
  }
  return { promptRate, answerRate, commitMs: Math.max(0, commitMs) };
}

async function measureMethod(bench: Bench, setup: (typeof METHODS)[number]): Promise<MethodCosts> {
  const adapter = "adapter" in setup ? join(bench.folder, setup.adapter) : undefined;
  const options = "options" in setup ? setup.options : undefined;
  const memory = await bench.model.createMemory({ method: setup.method, options, adapter });
  const points: CostPoint[] = [];
  let rates: Pick<MethodCosts, "promptRate" | "answerRate" | "commitMs"> | undefined;
  const last = setup.method === "full" ? LAST_OF_FULL : Math.max(...POINTS);
  for (const [index, message] of bench.messages.slice(0, last).entries()) {
    await memory.append([message]);
    if (!(POINTS as readonly number[]).includes(index + 1)) continue;
    points.push(await measurePoint(bench, memory, { messages: index + 1, adapter }));
    if (index + 1 === POINTS[1]) rates = await measureRates(bench, memory);
  }
  await memory.dispose();
  return { method: setup.method, points, ...(rates as NonNullable<typeof rates>) };
}

/** Tokens of a whole history that a full cache reads a second, at once, as a server without a store has to. */
async function measureReread({ model, messages, rounds }: Bench): Promise<number> {
  const text = messages.slice(0, LAST_OF_FULL).map(({ content }) => content);
  const ids = await model.tokenize(text.join("\n"));
  const ms = await fastest(rounds, async () => {
    const memory = await model.createMemory({ method: "full" });
    await memory.append(ids);
    await memory.dispose();
  });
  return (1000 * ids.length) / ms;
}

/** Bytes of a session's record as the server writes it, with one state and with two. */
async function measureRecord({ model }: Bench): Promise<Pick<Costs, "recordBytes" | "stateBytes">> {
  const { createApp } = await built<typeof Server>("server/index.js");
  const { MemoryStore } = await built<typeof Precis>("index.js");
  const store = new MemoryStore();
  const app = createApp([{ id: "model", model, adapters: [], setup: { method: "full" }, created: 0 }], { store });
  const post = async (path: string, body: object): Promise<void> => {
    const headers = { "content-type": "application/json" };
    await app.request(path, { method: "POST", headers, body: JSON.stringify(body) });
  };
  const size = async (): Promise<number> => {
    const found = await store.get({ namespace: "default", id: "session" });
    return JSON.stringify(found?.metadata).length;
  };
  await post("/v1/sessions", { id: "session" });
  const sizes: number[] = [];
  for (let turn = 0; turn < 2; turn++) {
    await post("/v1/sessions/session/append", { messages: [{ role: "user", content: "Hello" }] });
    sizes.push(await size());
  }
  await app.close();
  const [one, two] = sizes as [number, number];
  return { recordBytes: one, stateBytes: two - one };
}

/** Three digits, so that nobody reads more into them. */
function rounded(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(3)) : value;
}

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/precis-28m" },
    dtype: { type: "string", default: "fp32" },
    store: { type: "string" },
    rounds: { type: "string", default: "5" },
    output: { type: "string", default: "bench/scaling-costs.json" },
    again: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(HELP);
} else {
  const { loadModel, FileStore, RedisStore } = await built<typeof Precis>("index.js");
  const file = new URL("examples/long-conversation.json", root);
  const { messages } = JSON.parse(readFileSync(file, "utf8")) as { messages: Precis.ChatMessage[] };
  const scratch = await mkdtemp(join(tmpdir(), "precis-scaling-"));
  const store = values.store === undefined ? new FileStore(scratch) : await RedisStore.open(values.store);
  const model = await loadModel(values.model, { dtype: values.dtype as Precis.WeightDType, device: "cpu" });
  const bench: Bench = { model, store, messages, folder: values.model, rounds: Number(values.rounds) };
  const methods: MethodCosts[] = [];
  for (const setup of METHODS) {
    methods.push(await measureMethod(bench, setup));
    console.error(`${setup.method} measured`);
  }
  const measured: Costs = {
    model: values.model,
    dtype: values.dtype,
    cores: cpus().length,
    store: values.store === undefined ? "a folder" : "Redis",
    batch: BATCH,
    rereadRate: await measureReread(bench),
    ...(await measureRecord(bench)),
    methods,
  };
  const costs = values.again ? cheaperOf(measured, readCosts(values.output)) : measured;
  writeFileSync(values.output, `${JSON.stringify(costs, rounded, 2)}\n`);
  await store.delete({ namespace: "bench", id: "session" });
  await store.close();
  await model.dispose();
  await rm(scratch, { recursive: true });
}
