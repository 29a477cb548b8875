/** @file `npm run bench:decode`: Precis and node-llama-cpp on the same weights, interleaved in one run. */
import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import type { Engine } from "./engines/engine.js";
import { LlamaEngine } from "./engines/llama.js";
import { PrecisEngine, type MemorySettings } from "./engines/precis.js";
import { DISTURBED, Patience, watchOthers } from "./quiet.js";
import { formatReport, makeReport, type Round } from "./report.js";
import { prepareTask, TASK_NAMES, type Task, type TaskName, type TaskSizes } from "./tasks.js";

const HELP = `Usage: npm run bench:decode -- [options]
  --rounds N        measurements per task and engine (default 7)
  --tokens N        tokens decoded per measurement (default 64)
  --tasks LIST      of ${TASK_NAMES.join(", ")} (default all)
  --threads N       threads of both engines (default: as many as cores)
  --dtype TYPE      int4 (against Q4_0) or int8 (against Q8_0); default int4
  --method NAME     memory method of the long conversation (default ccm-concat)
  --conversation N  tokens of the long conversation (default 8000)
  --patience N      seconds to wait for other programs to leave the machine alone (default 120)
  --json FILE       write all measurements too; "-" prints them instead of the table`;

/** Slots that our memory of the conversation may hold at most. */
const MEMORY_SLOTS = 256;

/** Settings of a memory method that keep it within {@link MEMORY_SLOTS}. */
function memorySettings(method: string, conversationTokens: number): MemorySettings {
  if (method === "ccm-concat") {
    // Each step leaves two slots.
    return { method, options: {}, stepTokens: Math.ceil(conversationTokens / (MEMORY_SLOTS / 2)) };
  }
  const windowed = ["streaming", "sliding-window", "streaming-ccm"].includes(method);
  return { method, options: windowed ? { window: MEMORY_SLOTS } : {}, stepTokens: 64 };
}

interface Contestant {
  engine: Engine;
  task: Task;
}

/** One round: every engine once. Repeated while others disturb it and patience lasts; then the calmest try counts. */
async function measureRound(contestants: readonly Contestant[], patience: Patience): Promise<Round> {
  let calmest: Round | undefined;
  do {
    const startedAt = performance.now();
    const round: Round = { rates: new Map(), disturbance: 0 };
    for (const { engine, task } of contestants) {
      await patience.awaitQuiet();
      const others = watchOthers();
      round.rates.set(engine.name, await task.run());
      round.disturbance = Math.max(round.disturbance, others());
    }
    if (calmest === undefined || round.disturbance < calmest.disturbance) calmest = round;
    if (calmest.disturbance >= DISTURBED) patience.spend(performance.now() - startedAt);
  } while (calmest.disturbance >= DISTURBED && patience.left);
  return calmest;
}

/** Every engine does a task before the next round begins, each round in another order. */
async function measure(
  name: TaskName,
  engines: readonly Engine[],
  sizes: TaskSizes,
  rounds: number,
  patience: Patience,
) {
  const contestants: Contestant[] = [];
  for (const engine of engines) {
    const task = await prepareTask(name, engine, sizes);
    await patience.awaitQuiet();
    await task.run();
    contestants.push({ engine, task });
  }
  const results: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    const turn = round % contestants.length;
    const result = await measureRound([...contestants.slice(turn), ...contestants.slice(0, turn)], patience);
    results.push(result);
    const rates = [...result.rates].map(([engine, rate]) => `${engine} ${rate.toFixed(1)}`).join(", ");
    const others = (100 * result.disturbance).toFixed(0);
    process.stderr.write(`${name} ${round + 1}/${rounds}: ${rates} tokens/s; others used ${others} % of the CPU\n`);
  }
  return results;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "7" },
      tokens: { type: "string", default: "64" },
      tasks: { type: "string", default: TASK_NAMES.join() },
      threads: { type: "string", default: String(availableParallelism()) },
      dtype: { type: "string", default: "int4" },
      method: { type: "string", default: "ccm-concat" },
      conversation: { type: "string", default: "8000" },
      patience: { type: "string", default: "120" },
      json: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values.help === true) {
    console.log(HELP);
    return;
  }
  const asked = values.tasks.split(",");
  const names = TASK_NAMES.filter((name) => asked.includes(name));
  const threads = Number(values.threads);
  const rounds = Number(values.rounds);
  const patience = new Patience(Number(values.patience));
  const dtype = values.dtype === "int8" ? "int8" : "int4";
  const quantization = dtype === "int8" ? "q8_0" : "q4_0";
  const sizes: TaskSizes = {
    prefillTokens: 1024,
    cachedTokens: 128,
    conversationTokens: Number(values.conversation),
    sessions: 8,
    decodeTokens: Number(values.tokens),
  };
  const llama = { threads, quantization, conversationSize: sizes.conversationTokens + 256 } as const;
  const memory = memorySettings(values.method, sizes.conversationTokens);
  await using precis = await PrecisEngine.load({ dtype, threads, memory });
  await using flash = await LlamaEngine.load({ ...llama, flashAttention: true });
  await using plain = await LlamaEngine.load({ ...llama, flashAttention: false });
  const engines = [precis, flash, plain];
  const table = new Map<TaskName, Round[]>();
  for (const name of names) table.set(name, await measure(name, engines, sizes, rounds, patience));
  const report = makeReport(engines, table, sizes);
  const json = JSON.stringify(report, null, 2);
  if (values.json === "-") console.log(json);
  else {
    if (values.json !== undefined) writeFileSync(values.json, json);
    console.log(formatReport(report));
  }
}

await main();
