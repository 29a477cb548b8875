/** @file `precis serve`: an OpenAI-compatible server whose sessions remember. */
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, Option } from "commander";
import { PrecisError } from "../../errors.js";
import { SNAPSHOT_PRECISIONS } from "../../codec/row-precision.js";
import type { LanguageModel, SnapshotPrecision } from "../../index.js";
import {
  createApp,
  DEFAULT_LIMITS,
  listen,
  readPage,
  type LogRecord,
  type Page,
  type ServedAdapter,
  type ServedModel,
} from "../../server/index.js";
import { oneLine } from "../../format/one-line.js";
import { formatBytes } from "../../format/sizes.js";
import { interruptible, untilStopped } from "../interrupt.js";
import {
  addMemoryOptions,
  addModelOptions,
  adapterMethod,
  chooseMemory,
  describeMethod,
  findModel,
  installedAdapters,
  openModel,
  positiveNumber,
  wholeNumber,
  type MemoryFlags,
  type ModelFlags,
} from "../model-options.js";
import { readKeys } from "../serve/keys.js";
import { byteSize } from "../serve/size-option.js";
import { defaultStoreFolder, openStore } from "../serve/store-option.js";
import { styleOf } from "../style.js";

interface ServeFlags extends ModelFlags, MemoryFlags {
  name?: string;
  host: string;
  port: number;
  keys?: string;
  store?: string;
  precision: SnapshotPrecision;
  memory: number;
  bodies: number;
  concurrency: number;
  queue: number;
  rate: number;
  maxTokens: number;
  checkpoints: number;
  lease: number;
  origin?: string[];
  grace: number;
  page: boolean;
  json?: boolean;
}

/** Where the build puts the playground. */
const PAGE_FOLDER = fileURLToPath(new URL("../../web", import.meta.url));
/** Hosts that only this machine can reach. */
const LOCAL_HOSTS: readonly string[] = ["127.0.0.1", "localhost", "::1"];
/** The default memory of a model without adapters holds at most this many slots, and at most half of the context. */
const DEFAULT_WINDOW = 512;

const HELP = `
Examples:
  $ precis serve                            the embedded model on http://127.0.0.1:8080
  $ precis serve --model owner/name --dtype int4 --memory 4GB
  $ precis serve --method full              conversations keep every token, as other servers do
  $ precis serve --store lmdb:./sessions --checkpoints 4
  $ precis serve --store postgres://user:password@host/database --precision fp16
  $ precis serve --store 's3://bucket/prefix?endpoint=https://host:9000'   keys in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
  $ PRECIS_API_KEY=sk-secret precis serve --host 0.0.0.0

Point any OpenAI client at http://127.0.0.1:8080/v1. Three ways to remember:
  a conversation sent in full       only what is new is read; usage says how much was not read again
  "session": "alice"                in chat and completions, after POST /v1/sessions {"id": "alice"}: send the new turn only
  "previous_response_id"            in /v1/responses: an id names the memory after that response
The playground at / shows what a session keeps and what its answers look at.
A session can be appended to, forked, turned back, exported, imported and deleted under /v1/sessions/ID. /openapi.json
describes it all, /metrics counts, /health is for load balancers.

Each state is saved when its answer ends, so a restart forgets nothing. PRECIS_STORE_KEY (32 bytes in hex) encrypts what is
saved. Servers that share a store share its sessions. A key file has lines "NAMESPACE KEY"; each namespace sees its own sessions only. Ctrl-C lets answers finish; a second
one does not.
`;

/** The command `precis serve`. */
export function serveCommand(): Command {
  const command = new Command("serve").description("serve a model over OpenAI's API, with sessions that remember");
  addMemoryOptions(addModelOptions(command), "that of an installed adapter, else streaming");
  return command
    .option("--name <name>", "what requests call the model (default: its own name)")
    .option("--host <host>", "address to listen on; others than this machine's need API keys", "127.0.0.1")
    .option("--port <number>", "0 takes any free one", wholeNumber(0), 8080)
    .option("--keys <file>", "API keys; PRECIS_API_KEY names one without a file")
    .option(
      "--store <store>",
      `a folder, lmdb:FOLDER, redis://…, postgres://…, s3://BUCKET/PREFIX, or none (default: ${defaultStoreFolder()})`,
    )
    .addOption(
      new Option(
        "--precision <type>",
        "of saved sessions; fp32 is exact, the others take less space and change answers",
      )
        .choices([...SNAPSHOT_PRECISIONS])
        .default("fp32"),
    )
    .option("--memory <size>", "keys and values held at once; idle sessions wait in the store", byteSize, 1e9)
    .addOption(
      new Option("--bodies <size>", "bodies of requests held at once; more get 503")
        .argParser(byteSize)
        .default(DEFAULT_LIMITS.bodiesBytes, formatBytes(DEFAULT_LIMITS.bodiesBytes)),
    )
    .option("--concurrency <count>", "requests at work at once", wholeNumber(1), DEFAULT_LIMITS.concurrency)
    .option("--queue <count>", "requests that may wait; more get 429", wholeNumber(0), DEFAULT_LIMITS.queue)
    .option("--rate <count>", "requests per minute and key; 0 for no limit", wholeNumber(0), 0)
    .option("--max-tokens <count>", "longest answer in tokens", wholeNumber(1), DEFAULT_LIMITS.maxTokens)
    .option("--checkpoints <count>", "earlier states kept per session", wholeNumber(0), DEFAULT_LIMITS.checkpoints)
    .option("--lease <seconds>", "how long a session waits for a server that died with it", positiveNumber(0.1), 5)
    .option("--origin <origin>", "web page that may call beside local ones; may be repeated, * for all", collect)
    .option("--grace <seconds>", "time that answers get to finish when the server stops", positiveNumber(0), 30)
    .option("--no-page", "do not serve the playground at /")
    .option("--json", "log JSON lines")
    .addHelpText("after", HELP)
    .action(serve);
}

function collect(value: string, previous: string[] = []): string[] {
  return [...previous, value];
}

async function serve(flags: ServeFlags): Promise<void> {
  const keys = await readKeys(flags.keys);
  const isLocal = LOCAL_HOSTS.includes(flags.host);
  if (!isLocal && keys.length === 0) {
    throw new PrecisError("OPTION_INVALID", `Without API keys, ${flags.host} would let anybody in.`, {
      value: flags.host,
      nextStep: "Set PRECIS_API_KEY or pass --keys FILE.",
    });
  }
  // Requests are read and answered while the engine works, so its threads must leave the cores to others.
  const options = { spin: false };
  await using model = await interruptible(async (signal) =>
    openModel(await findModel(flags, signal), flags, signal, options),
  );
  const served = await serveModel(model, flags);
  const { store, description } = await openStore(flags.store);
  const log = flags.json === true ? logJson : logText;
  const { memory, bodies, concurrency, queue, rate, maxTokens, checkpoints, lease } = flags;
  const page = flags.page ? await readPage(PAGE_FOLDER) : undefined;
  const app = createApp([served], {
    ...(page === undefined ? {} : { page }),
    keys,
    store,
    limits: {
      memoryBytes: memory,
      bodiesBytes: bodies,
      concurrency,
      queue,
      requestsPerMinute: rate,
      maxTokens,
      checkpoints,
      leaseMs: Math.ceil(1000 * lease),
    },
    origins: flags.origin ?? [],
    // With keys there is nothing that a page could do by a name of its own.
    ...(isLocal && keys.length === 0 ? { hosts: ["localhost", "127.0.0.1", "[::1]"] } : {}),
    precision: flags.precision,
    log,
  });
  const server = await listen(app, { host: flags.host, port: flags.port });
  const stopped = untilStopped();
  if (flags.json === true) {
    logJson({ level: "info", event: "listening", url: server.url, model: served.id, store: description });
  } else {
    process.stdout.write(
      greeting(served, { url: server.url, store: description, memory, secured: keys.length > 0, page }),
    );
  }
  await stopped;
  log({ level: "info", event: "stopping", seconds: flags.grace });
  await server.close(1000 * flags.grace);
  await store.close();
  log({ level: "info", event: "stopped" });
}

/** The model with its adapters, and the memory that conversations get unless they ask for another. */
export async function serveModel(
  model: LanguageModel,
  flags: ModelFlags & MemoryFlags & { name?: string },
): Promise<ServedModel> {
  const { directory, maxPositions } = model.info;
  const adapters: ServedAdapter[] = (await installedAdapters(directory)).map((adapter) => ({
    name: basename(adapter.directory),
    ...adapter,
  }));
  const nameOf = async (folder: string | undefined): Promise<string | undefined> => {
    if (folder === undefined) return undefined;
    const known = adapters.find((adapter) => adapter.directory === folder);
    if (known !== undefined) return known.name;
    const name = basename(folder);
    const method = await adapterMethod(folder);
    // The one on the command line goes before an installed one of the same name.
    adapters.splice(
      0,
      adapters.length,
      { name, directory: folder, method },
      ...adapters.filter((a) => a.name !== name),
    );
    return name;
  };
  // Clients need not know where the model lies.
  const isPath = /^[./~]|\/.*\/|\\/.test(flags.model);
  const id = flags.name ?? (isPath ? basename(directory) : flags.model);
  const base = { id, model, adapters, created: Math.floor(Date.now() / 1000) };
  if (flags.method === undefined && flags.adapter === undefined) {
    const [installed] = adapters;
    const window = Math.max(2, Math.min(DEFAULT_WINDOW, Math.floor(maxPositions / 2)));
    const streaming = { method: "streaming", options: { window, ...flags.set } };
    const setup =
      installed === undefined ? streaming : { adapter: installed.name, method: installed.method, options: flags.set };
    return { ...base, setup };
  }
  const { method, options, adapter, spanAdapter } = await chooseMemory(directory, flags);
  const setup = { method, options, adapter: await nameOf(adapter), span_adapter: await nameOf(spanAdapter) };
  // What cannot be made is said now rather than to the first client.
  const trial = await model.createMemory({ method, options, adapter, spanAdapter });
  await trial.dispose();
  return { ...base, setup: { ...setup, method: trial.method } };
}

function greeting(
  served: ServedModel,
  {
    url,
    store,
    memory,
    secured,
    page,
  }: { url: string; store: string; memory: number; secured: boolean; page: Page | undefined },
): string {
  const { bold, dim } = styleOf(process.stdout);
  const { family, dtype, device, bytesPerSlot } = served.model.info;
  const { method = "the adapter's own", options = {}, adapter } = served.setup;
  const tokens = Math.floor(memory / bytesPerSlot);
  const key = secured ? " -H 'authorization: Bearer KEY'" : "";
  const body = JSON.stringify({ messages: [{ role: "user", content: "Hello!" }] });
  return [
    `${bold(served.id)} ${dim(`${family} · ${dtype} · ${device}`)}`,
    dim(`Memory: ${describeMethod(method, options)}${adapter === undefined ? "" : `, adapter ${adapter}`}`),
    dim(`Room: ${formatBytes(memory)} of keys and values, ${tokens} slots of ${formatBytes(bytesPerSlot)}`),
    dim(`Sessions: ${store}`),
    `Listening on ${bold(url)}`,
    ...(page === undefined ? [] : [page.size > 0 ? `Playground: ${bold(`${url}/`)}` : dim("Playground: not built")]),
    "",
    `  curl ${url}/v1/chat/completions -H 'content-type: application/json'${key} \\`,
    `    -d '${body}'`,
    "",
    dim("Ctrl-C stops it, once answers in progress are finished."),
    "",
  ].join("\n");
}

/** Logs a record as JSON. */
export function logJson(record: LogRecord): void {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), ...record })}\n`);
}

/** A line for people: requests, and what went wrong. */
export function logText({ level, event, ...fields }: LogRecord): void {
  const { dim, alert } = styleOf(process.stdout);
  const time = dim(new Date().toISOString().slice(11, 19));
  const { stack: _, ...shown } = fields;
  const { method, path, status, ms, namespace } = fields;
  const line =
    event === "request"
      ? `${String(method)} ${String(path)} ${String(status)} ${String(ms)} ms${namespace === "default" ? "" : ` ${String(namespace)}`}`
      : `${event} ${Object.entries(shown)
          .map(([name, value]) => `${name}=${String(value)}`)
          .join(" ")}`;
  // Paths and reasons quote what clients sent.
  const shownLine = oneLine(line);
  process.stdout.write(`${time} ${level === "error" ? alert(shownLine) : shownLine}\n`);
}
