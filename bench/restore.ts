/** @file `npm run bench:restore`: bringing a long session back from its file, against reading its history again. */
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type * as Precis from "../dist/index.js";
import { loadPrecisModel } from "./engines/precis.js";
import { built, ROOT } from "./library.js";
import { Patience, watchOthers } from "./quiet.js";
import type { Contestant, NextToken, SavedSession, Session } from "./restore/contestant.js";
import { METHODS, PrecisSession, type Method } from "./restore/precis.js";
import { formatReport, type RestoreReport } from "./restore/report.js";
import { summarize } from "./restore/summary.js";
import { mean } from "./statistics.js";
import { tokenSource } from "./tasks.js";
import { prepareAdapter } from "./weights/prepare.js";
import { PRECIS_28M, SMOLLM2_135M, type DecoderShape } from "./weights/shape.js";

const HELP = `Usage: npm run bench:restore -- [options]
  --tokens N      tokens of the session (default 10000)
  --step N        tokens of a time step (default 64)
  --methods LIST  of ${METHODS.join(", ")} (default all)
  --rounds N      restores of each saved session (default 7)
  --rereads N     readings of the history per memory (default 1: one may take half a minute)
  --shape NAME    sizes of the model with random weights: precis-28m (default) or smollm2-135m
  --model DIR     instead of it and without node-llama-cpp: a model with adapters of the methods' names, such as
                  models/precis-28m, on the words of a conversation
  --alone         without node-llama-cpp
  --dtype TYPE    weights: int4 (against Q4_0) or int8 (against Q8_0); default int4
  --threads N     CPU threads (default: as many as cores)
  --patience N    seconds to wait for other programs to leave the machine alone (default 20)
  --json FILE     write the report as JSON too; "-" prints it instead of the table

Restoring starts at the file and ends at the token after one more token of input; re-reading starts at the token ids.`;

/** Tokens of the history with which an engine warms up. */
const WARM_UP_TOKENS = 256;

interface Settings {
  /** Folder of a model; `undefined` for random weights. */
  model: string | undefined;
  shape: DecoderShape;
  dtype: "int4" | "int8";
  threads: number;
  methods: readonly Method[];
  /** Whether to leave node-llama-cpp out. */
  alone: boolean;
}

/** Measures one thing at a time and keeps how much others disturbed it. */
class Stopwatch {
  readonly disturbances: number[] = [];
  readonly #patience: Patience;

  constructor(patience: Patience) {
    this.#patience = patience;
  }

  async measure(work: () => Promise<NextToken>): Promise<NextToken> {
    await this.#patience.awaitQuiet();
    const others = watchOthers();
    const result = await work();
    this.disturbances.push(others());
    return result;
  }
}

/** Everyone once per round, each round in another order. */
async function takeTurns<Item>(items: readonly Item[], rounds: number, turn: (item: Item) => Promise<void>) {
  for (let round = 0; round < rounds; round++) {
    for (let place = 0; place < items.length; place++) await turn(items[(place + round) % items.length] as Item);
  }
}

/** Words of a real conversation, over and over. */
async function conversationIds(model: Precis.LanguageModel, count: number): Promise<number[]> {
  const file = new URL("examples/long-conversation.json", ROOT);
  const { messages } = JSON.parse(readFileSync(file, "utf8")) as { messages: { content: string }[] };
  const ids = await model.tokenize(messages.map(({ content }) => content).join("\n"));
  return Array.from({ length: count }, (_, index) => ids[index % ids.length] as number);
}

async function loadPrecis({ model, shape, dtype, threads }: Settings): Promise<Precis.LanguageModel> {
  if (model === undefined) return loadPrecisModel({ dtype, threads }, shape);
  const { loadModel } = await built<typeof Precis>("index.js");
  return loadModel(model, { dtype, threads, device: "cpu" });
}

/** Loads whoever takes part; what it makes on the way is disposed with `resources`. */
async function gather(
  settings: Settings,
  sizes: { tokens: number; stepTokens: number },
  resources: AsyncDisposable[],
): Promise<Contestant[]> {
  const load = async (): Promise<Precis.LanguageModel> => {
    const loaded = await loadPrecis(settings);
    resources.push(loaded);
    return loaded;
  };
  // An adapter changes the graph of the model that it joins, so the full cache has a model of its own.
  const [plain, adapted] = [await load(), await load()];
  const ids =
    settings.model === undefined
      ? tokenSource(20260726, settings.shape)(sizes.tokens + 1)
      : await conversationIds(plain, sizes.tokens + 1);
  const session: Session = { history: ids.slice(0, -1), prompt: ids.slice(-1), stepTokens: sizes.stepTokens };
  const adapterOf = (method: Method): string =>
    settings.model === undefined ? prepareAdapter(settings.shape) : join(settings.model, "adapters", method);
  const contestants = (part: Session): Contestant[] =>
    settings.methods.map((method) =>
      method === "full"
        ? new PrecisSession(plain, method, undefined, part)
        : new PrecisSession(adapted, method, adapterOf(method), part),
    );
  // The first runs of a model are slow.
  for (const contestant of contestants({ ...session, history: ids.slice(0, WARM_UP_TOKENS) })) {
    await contestant.reread();
    await contestant[Symbol.asyncDispose]();
  }
  const all = contestants(session);
  if (settings.model === undefined && !settings.alone) {
    // Loaded only here, so that without it nothing needs node-llama-cpp.
    const { LlamaSession } = await import("./restore/llama.js");
    const quantization = settings.dtype === "int8" ? "q8_0" : "q4_0";
    for (const cacheType of ["fp16", "q8_0"] as const) {
      const { threads, shape } = settings;
      all.push(await LlamaSession.load({ threads, shape, quantization, cacheType }, session));
    }
  }
  resources.push(...all);
  return all;
}

interface Entry {
  contestant: Contestant;
  saved: SavedSession;
  restores: NextToken[];
}

async function compare(
  contestants: readonly Contestant[],
  rounds: RestoreReport["rounds"],
  stopwatch: Stopwatch,
): Promise<RestoreReport["lines"]> {
  const rereads = new Map<Contestant, NextToken[]>(contestants.map((contestant) => [contestant, []]));
  await takeTurns(contestants, rounds.rereads, async (contestant) => {
    const found = await stopwatch.measure(() => contestant.reread());
    rereads.get(contestant)?.push(found);
    const seconds = (found.milliseconds / 1000).toFixed(1);
    process.stderr.write(`${contestant.engine}, ${contestant.memory}: read again in ${seconds} s\n`);
  });
  const folder = await mkdtemp(join(tmpdir(), "precis-restore-"));
  try {
    const entries: Entry[] = [];
    for (const contestant of contestants) {
      for (const saved of await contestant.save(folder)) entries.push({ contestant, saved, restores: [] });
    }
    const slots = new Map<Contestant, number>();
    for (const contestant of contestants) slots.set(contestant, await contestant.slots());
    // Once without counting, so that every file is in the system's cache.
    await takeTurns(entries, 1, async ({ saved }) => void (await saved.restore()));
    await takeTurns(entries, rounds.restores, async ({ saved, restores }) => {
      restores.push(await stopwatch.measure(() => saved.restore()));
    });
    return entries.map(({ contestant, saved, restores }) =>
      summarize({
        engine: contestant.engine,
        memory: contestant.memory,
        tokens: contestant.tokens,
        slots: slots.get(contestant) ?? NaN,
        format: saved.format,
        bytes: saved.bytes,
        restores,
        rereads: rereads.get(contestant) ?? [],
      }),
    );
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      tokens: { type: "string", default: "10000" },
      step: { type: "string", default: "64" },
      methods: { type: "string", default: METHODS.join() },
      rounds: { type: "string", default: "7" },
      rereads: { type: "string", default: "1" },
      shape: { type: "string", default: PRECIS_28M.name },
      model: { type: "string" },
      dtype: { type: "string", default: "int4" },
      threads: { type: "string", default: String(availableParallelism()) },
      patience: { type: "string", default: "20" },
      json: { type: "string" },
      alone: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const { dtype } = values;
  if (dtype !== "int4" && dtype !== "int8") throw new Error(`--dtype ${dtype}: use int4 or int8.`);
  const shape = [PRECIS_28M, SMOLLM2_135M].find(({ name }) => name === values.shape);
  if (shape === undefined) throw new Error(`--shape ${values.shape}: use ${PRECIS_28M.name} or ${SMOLLM2_135M.name}.`);
  const asked = values.methods.split(",");
  const unknown = asked.find((name) => !METHODS.some((method) => method === name));
  if (unknown !== undefined) throw new Error(`--methods ${unknown}: use ${METHODS.join(", ")}.`);
  const settings: Settings = {
    model: values.model,
    shape,
    dtype,
    threads: Number(values.threads),
    methods: METHODS.filter((method) => asked.includes(method)),
    alone: values.alone,
  };
  const sizes = { tokens: Number(values.tokens), stepTokens: Number(values.step) };
  const rounds = { restores: Number(values.rounds), rereads: Number(values.rereads) };
  const stopwatch = new Stopwatch(new Patience(Number(values.patience)));
  const resources: AsyncDisposable[] = [];
  try {
    const lines = await compare(await gather(settings, sizes, resources), rounds, stopwatch);
    const { disturbances } = stopwatch;
    const report: RestoreReport = {
      machine: { cpu: cpus()[0]?.model.trim() ?? "unknown", cores: availableParallelism(), node: process.version },
      settings: {
        model: settings.model ?? `random weights in the shape of ${shape.name}`,
        dtype,
        threads: settings.threads,
        stepTokens: sizes.stepTokens,
      },
      historyTokens: sizes.tokens,
      rounds,
      lines,
      others: { mean: mean(disturbances), most: Math.max(...disturbances) },
    };
    const json = JSON.stringify(report, null, 1);
    if (values.json === "-") console.log(json);
    else {
      if (values.json !== undefined) writeFileSync(values.json, json);
      console.log(await formatReport(report));
    }
  } finally {
    for (const resource of resources.toReversed()) await resource[Symbol.asyncDispose]();
  }
}

await main();
