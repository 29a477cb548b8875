/** @file `precis worker`: take in what waits in a queue. */
import { Command, Option } from "commander";
import { PrecisError } from "../../errors.js";
import type { SnapshotPrecision } from "../../index.js";
import { DEFAULT_LIMITS } from "../../server/index.js";
import { startWorker } from "../../server/ingest/worker.js";
import { interruptible, untilStopped } from "../interrupt.js";
import {
  addMemoryOptions,
  addModelOptions,
  findModel,
  openModel,
  positiveNumber,
  wholeNumber,
  type MemoryFlags,
  type ModelFlags,
} from "../model-options.js";
import { openStore } from "../serve/store-option.js";
import { holderName } from "./ingest.js";
import { logJson, logText, serveModel } from "./serve.js";

interface WorkerFlags extends ModelFlags, MemoryFlags {
  queue: string;
  store?: string;
  name?: string;
  precision: SnapshotPrecision;
  checkpoints: number;
  concurrency: number;
  stalled: number;
  json?: boolean;
}

const HELP = `
Examples:
  $ precis worker --queue redis://localhost
  $ precis worker --queue redis://localhost --store lmdb:./sessions --model owner/name --dtype int8

Takes in what \`precis ingest --queue\` puts in line. Model, name, precision and store must be those of the servers that the
sessions are for; the store is the queue's Redis unless --store says otherwise. As many workers may run as you like, on any
machine: a session is worked on by one at a time. Ctrl-C puts what is at work back in line, and the job of a worker that
dies goes to another; either way it goes on where it was saved, and nothing is taken in twice.
`;

/** The command `precis worker`. */
export function workerCommand(): Command {
  const command = new Command("worker")
    .description("take documents from a queue into sessions")
    .requiredOption("--queue <url>", "redis://… or rediss://… of the queue");
  addMemoryOptions(addModelOptions(command), "that of an installed adapter, else streaming");
  return command
    .option("--name <name>", "what the servers call the model (default: its own name)")
    .option("--store <store>", "a folder, lmdb:FOLDER or redis://… (default: the queue's Redis)")
    .addOption(
      new Option("--precision <type>", "of saved sessions, as the servers have it")
        .choices(["fp32", "fp16"])
        .default("fp32"),
    )
    .option("--checkpoints <count>", "earlier states kept per session", wholeNumber(0), DEFAULT_LIMITS.checkpoints)
    .option("--concurrency <count>", "jobs at once", wholeNumber(1), 1)
    .option("--stalled <seconds>", "silence after which a worker's job goes to another", positiveNumber(1), 30)
    .option("--json", "log JSON lines")
    .addHelpText("after", HELP)
    .action(work);
}

async function work(flags: WorkerFlags): Promise<void> {
  if (flags.store === "none") {
    throw new PrecisError("OPTION_INVALID", "Sessions that end with the worker are of no use.", {
      value: flags.store,
      nextStep: "Name the servers' store with --store.",
    });
  }
  await using model = await interruptible(async (signal) => openModel(await findModel(flags, signal), flags, signal));
  const served = await serveModel(model, flags);
  const { store, description } = await openStore(flags.store ?? flags.queue);
  const log = flags.json === true ? logJson : logText;
  const stalledMs = 1000 * flags.stalled;
  const { checkpoints, precision, concurrency } = flags;
  const limits = { ...DEFAULT_LIMITS, checkpoints };
  const worker = await startWorker(
    flags.queue,
    { served, store, limits, precision, holder: holderName(), leaseMs: stalledMs },
    {
      concurrency,
      stalledMs,
      onEvent: ({ event, ...fields }) => {
        const level = event === "job-failed" ? "error" : "info";
        log({ level, event, ...(flags.json === true ? fields : shortened(fields)) });
      },
    },
  );
  log({ level: "info", event: "working", model: served.id, store: description });
  await untilStopped();
  log({ level: "info", event: "stopping" });
  await worker.close();
  await store.close();
  log({ level: "info", event: "stopped" });
}

/** Fields of an event for one line of text. */
function shortened({ progress, result, ...fields }: object & { progress?: object; result?: object }): object {
  const { done, total } = (progress ?? {}) as { done?: number; total?: number };
  const { steps, tokens } = (result ?? {}) as { steps?: number; tokens?: number };
  return {
    ...fields,
    ...(total === undefined ? {} : { done, total }),
    ...(steps === undefined ? {} : { steps, tokens }),
  };
}
