/** @file `precis ingest`: take documents and histories into a session, here or as a job for workers. */
import { setTimeout as sleep } from "node:timers/promises";
import { hostname } from "node:os";
import { basename } from "node:path";
import { Command, Option } from "commander";
import { PrecisError } from "../../errors.js";
import { formatBytes } from "../../format/sizes.js";
import type { SnapshotPrecision } from "../../index.js";
import { DEFAULT_LIMITS } from "../../server/index.js";
import { newSessionId } from "../../server/ingest/session-id.js";
import { readDocument } from "../../server/ingest/documents.js";
import { ingest, type IngestProgress, type IngestResult, type IngestTask } from "../../server/ingest/ingest.js";
import { IngestQueue, type JobView } from "../../server/ingest/queue.js";
import { interruptible } from "../interrupt.js";
import {
  addMemoryOptions,
  addModelOptions,
  findModel,
  openModel,
  wholeNumber,
  type MemoryFlags,
  type ModelFlags,
} from "../model-options.js";
import { ProgressLine } from "../progress-line.js";
import { defaultStoreFolder, openStore } from "../serve/store-option.js";
import { serveModel } from "./serve.js";

interface IngestFlags extends ModelFlags, MemoryFlags {
  session?: string;
  name?: string;
  namespace: string;
  store?: string;
  precision: SnapshotPrecision;
  stepTokens: number;
  queue?: string;
  wait?: boolean;
  status?: string;
  cancel?: string;
  json?: boolean;
}

/** Tokens of a time step: about those that the embedded adapters were trained on. */
const STEP_TOKENS = 64;
const WAIT_MS = 300;

const HELP = `
Examples:
  $ precis ingest book.txt --session reader
  $ precis ingest history.jsonl notes.md --session alice --method ccm-concat --store lmdb:./sessions
  $ precis ingest book.txt --session reader --queue redis://localhost --wait
  $ precis ingest --queue redis://localhost --status ingest-…     or --cancel ingest-…

Texts are cut at sentences into time steps; .json and .jsonl hold messages, {"role": …, "content": …}, a time step each.
A session that is not there is made, with the memory that --method, --adapter and --set ask for. It takes each document in
once: what was cut off goes on where it was saved, and what it has is passed over.

With --queue the documents wait in Redis for a \`precis worker\`, which needs the packages bullmq and ioredis. There they
lie in the clear until a day after a worker is done with them, whatever PRECIS_STORE_KEY says of sessions. Servers may
answer in the session meanwhile; they wait for a few steps at most.
`;

/** The command `precis ingest`. */
export function ingestCommand(): Command {
  const command = new Command("ingest")
    .description("take documents and chat histories into a session, here or by workers")
    .argument("[files...]", "texts, or .json and .jsonl with messages")
    .option("--session <id>", "session that takes them in");
  addMemoryOptions(addModelOptions(command), "as for precis serve");
  return command
    .option("--name <name>", "what the server calls the model (default: its own name)")
    .option("--namespace <name>", "whose session: the namespace of an API key", "default")
    .option("--store <store>", `a folder, lmdb:FOLDER or redis://… (default: ${defaultStoreFolder()})`)
    .addOption(
      new Option("--precision <type>", "of the saved session, as the server has it")
        .choices(["fp32", "fp16"])
        .default("fp32"),
    )
    .option("--step-tokens <count>", "most tokens of a text in one time step, about", wholeNumber(1), STEP_TOKENS)
    .option("--queue <url>", "leave it to workers: redis://… of the queue")
    .option("--wait", "with --queue: wait for the end")
    .option("--status <job>", "with --queue: say how far a job is")
    .option("--cancel <job>", "with --queue: call a job off; what it has taken in stays")
    .option("--json", "print JSON")
    .addHelpText("after", HELP)
    .action((files: string[], flags: IngestFlags) => interruptible((signal) => run(files, flags, signal)));
}

async function run(files: readonly string[], flags: IngestFlags, signal: AbortSignal): Promise<void> {
  const { queue, status, cancel } = flags;
  const job = status ?? cancel;
  if (queue === undefined && (job !== undefined || flags.wait === true)) {
    throw new PrecisError("OPTION_INVALID", "Jobs are in a queue.", { nextStep: "Say which with --queue redis://…." });
  }
  if (queue !== undefined && job !== undefined) {
    await using jobs = await IngestQueue.open(queue);
    if (cancel !== undefined) await jobs.cancel(job);
    return show(await jobs.view(job), flags);
  }
  const { session = "", namespace, stepTokens } = flags;
  if (files.length === 0 || session === "") {
    throw new PrecisError("OPTION_INVALID", "Name files, and the session that takes them in.", {
      nextStep: "Such as: precis ingest book.txt --session reader.",
    });
  }
  const documents = await Promise.all(files.map(readDocument));
  const task: IngestTask = { namespace, session: newSessionId(session), documents, stepTokens };
  if (queue === undefined) return report(await takeInHere(task, flags, signal), flags);
  const { method, set: options, adapter, spanAdapter } = flags;
  const isAsked = method !== undefined || adapter !== undefined;
  const folderName = (folder: string | undefined): string | undefined => folder && basename(folder);
  const setup = { method, options, adapter: folderName(adapter), span_adapter: folderName(spanAdapter) };
  await using jobs = await IngestQueue.open(queue);
  const id = await jobs.add({ ...task, setup: isAsked ? setup : undefined });
  show(flags.wait === true ? await ended(jobs, id, signal) : await jobs.view(id), flags);
}

async function takeInHere(task: IngestTask, flags: IngestFlags, signal: AbortSignal): Promise<IngestResult> {
  await using model = await openModel(await findModel(flags, signal), flags, signal);
  const served = await serveModel(model, flags);
  const { store } = await openStore(flags.store);
  const line = new ProgressLine();
  const holder = holderName();
  try {
    return await ingest({ served, store, limits: DEFAULT_LIMITS, precision: flags.precision, holder }, task, {
      signal,
      onProgress: (progress) => line.show(describe(progress)),
    });
  } finally {
    line.end();
    await store.close();
  }
}

/** Who is at work, for others who want the same session. */
export function holderName(): string {
  return `precis ${process.pid} on ${hostname()}`.replace(/[^\x20-\x7e]/g, "?").slice(0, 100);
}

async function ended(jobs: IngestQueue, id: string, signal: AbortSignal): Promise<JobView> {
  const line = new ProgressLine();
  try {
    for (;;) {
      const view = await jobs.view(id);
      if (view.state !== "waiting" && view.state !== "running") return view;
      line.show(view.progress === undefined ? `${view.state} …` : describe(view.progress));
      await sleep(WAIT_MS);
      // The job goes on without us.
      if (signal.aborted) return view;
    }
  } finally {
    line.end();
  }
}

function describe({ done, total, document, steps }: IngestProgress): string {
  const share = total === 0 ? 100 : Math.floor((100 * done) / total);
  return `${document}: ${share} % of ${total} characters, ${steps} steps`;
}

function report(result: IngestResult, { json = false }: IngestFlags): void {
  process.stdout.write(json ? `${JSON.stringify(result)}\n` : sentence(result));
}

function sentence({ session, documents, steps, tokens, memory }: IngestResult): string {
  if (documents === 0) return `Session ${session} has all of it already.\n`;
  const held = `${memory.tokensSeen} tokens in ${formatBytes(memory.bytes)}`;
  const full = formatBytes(memory.fullCacheBytes);
  return `Session ${session} took in ${documents} documents: ${steps} steps, ${tokens} tokens.\nIt holds ${held}; a full cache would take ${full}.\n`;
}

/** @throws INPUT_INVALID for a job that failed, with its reason */
function show(view: JobView, { json = false }: IngestFlags): void {
  const { id, state, progress, result, reason } = view;
  if (json) process.stdout.write(`${JSON.stringify(view)}\n`);
  else {
    process.stdout.write(`${id}: ${state}${progress === undefined ? "" : `, ${describe(progress)}`}\n`);
    if (result !== undefined) process.stdout.write(sentence(result));
  }
  if (state !== "failed") return;
  throw new PrecisError("INPUT_INVALID", `The job failed: ${reason}`, {
    value: id,
    nextStep: "Put that right and run precis ingest again; it goes on where the job was.",
  });
}
