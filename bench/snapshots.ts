/** @file `npm run bench:snapshots`: bytes of a saved memory in every precision, and what each costs in quality. */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type * as TableModule from "../dist/cli/table.js";
import type * as Precis from "../dist/index.js";

/** The repository's root, seen from the compiled file. */
const root = new URL("../../", import.meta.url);

async function built<Module>(path: string): Promise<Module> {
  return (await import(new URL(`dist/${path}`, root).href)) as Module;
}

type Message = Precis.ChatMessage;

const HELP = `Usage: npm run bench:snapshots -- [options]
  --model DIR           folder of the model (default models/precis-28m)
  --conversation FILE   its first messages fill the memory, the rest is scored (default examples/long-conversation.json)
  --messages N          messages in the memory, one step each (default 32)
  --json                print one JSON object

The rest of the conversation is run, 6 messages at a time, given the memory as it was and as it is after being saved
and restored. KL is the mean of KL(exact || restored) over its tokens, in nats.`;

/** Messages that are scored together, so that they fit the context beside a full cache. */
const SCORED_TOGETHER = 6;

/** The memories that are measured: a full cache, and each kind of compressed slots. */
const METHODS = [
  { name: "full" },
  { name: "ccm-concat", adapter: "adapters/ccm-concat" },
  { name: "ccm-merge", adapter: "adapters/ccm-merge" },
] as const;

const PRECISIONS: readonly Precis.SnapshotPrecision[] = ["fp32", "fp16", "int8", "int4"];

interface Measured {
  method: string;
  slots: number;
  precision: Precis.SnapshotPrecision;
  bytes: number;
  compressedBytes: number;
  saveMs: number;
  restoreMs: number;
  perplexity: number;
  kl: number;
  sameTop: number;
}

/** Natural logarithms of the probabilities of one token's logits. */
function logSoftmax(logits: Float32Array): Float64Array {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const logSum = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
  return Float64Array.from(logits, (logit) => logit - most - logSum);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Per token: what it costs to predict the next one, the divergence from the exact logits, and whether both agree. */
function compare(
  exact: Precis.ForwardOutput,
  restored: Precis.ForwardOutput,
): { nll: number[]; kl: number[]; same: number[] } {
  const found = { nll: [] as number[], kl: [] as number[], same: [] as number[] };
  const { vocabSize } = exact;
  for (let token = 0; token < exact.tokens; token++) {
    const [p, q] = [exact, restored].map(({ logits }) =>
      logSoftmax(logits.subarray(token * vocabSize, (token + 1) * vocabSize)),
    ) as [Float64Array, Float64Array];
    found.kl.push(p.reduce((sum, logP, i) => sum + Math.exp(logP) * (logP - (q[i] as number)), 0));
    found.same.push(Number(p.indexOf(Math.max(...p)) === q.indexOf(Math.max(...q))));
    const next = exact.ids[token + 1];
    if (next !== undefined) found.nll.push(-(q[next] as number));
  }
  return found;
}

async function run(memory: Precis.Memory, pieces: readonly Message[][]): Promise<Precis.ForwardOutput[]> {
  const outputs: Precis.ForwardOutput[] = [];
  for (const piece of pieces) outputs.push(await memory.forward(piece, { logits: "all" }));
  return outputs;
}

async function timed<T>(work: () => Promise<T>): Promise<[T, number]> {
  const start = performance.now();
  const result = await work();
  return [result, performance.now() - start];
}

async function measure(
  model: Precis.LanguageModel,
  method: (typeof METHODS)[number],
  folder: string,
  texts: { steps: Message[]; pieces: Message[][] },
): Promise<Measured[]> {
  const adapter = "adapter" in method ? `${folder}/${method.adapter}` : undefined;
  const memory = await model.createMemory({ method: method.name, adapter });
  for (const step of texts.steps) await memory.append([step]);
  const exact = await run(memory, texts.pieces);
  const { slots } = await memory.stats();
  const rows: Measured[] = [];
  for (const precision of PRECISIONS) {
    const options: Precis.SnapshotOptions = { precision, compress: true };
    const plain = await memory.snapshot({ precision });
    const [compressed, saveMs] = await timed(() => memory.snapshot(options));
    const [restored, restoreMs] = await timed(() => model.restoreMemory(compressed, { adapter }));
    const outputs = await run(restored, texts.pieces);
    const compared = outputs.map((output, i) => compare(exact[i] as Precis.ForwardOutput, output));
    await restored.dispose();
    rows.push({
      method: method.name,
      slots,
      precision,
      bytes: plain.length,
      compressedBytes: compressed.length,
      saveMs,
      restoreMs,
      perplexity: Math.exp(mean(compared.flatMap(({ nll }) => nll))),
      kl: mean(compared.flatMap(({ kl }) => kl)),
      sameTop: mean(compared.flatMap(({ same }) => same)),
    });
  }
  await memory.dispose();
  return rows;
}

async function describe(rows: readonly Measured[]): Promise<string> {
  const { formatTable } = await built<typeof TableModule>("cli/table.js");
  const cells = rows.map((row) => ({
    method: row.method,
    slots: row.slots,
    precision: row.precision,
    bytes: row.bytes,
    compressed: row.compressedBytes,
    save: `${row.saveMs.toFixed(0)} ms`,
    restore: `${row.restoreMs.toFixed(0)} ms`,
    perplexity: row.perplexity.toFixed(3),
    kl: row.kl.toExponential(1),
    same: `${(100 * row.sameTop).toFixed(1)} %`,
  }));
  const columns = ["method", "slots", "precision", "bytes", "compressed", "save", "restore", "perplexity"];
  const right = { align: "right" as const };
  return formatTable(cells, [
    ...columns.map((key) => ({ key, ...(key === "method" || key === "precision" ? {} : right) })),
    { key: "kl", heading: "KL", ...right },
    { key: "same", heading: "same next token", ...right },
  ]);
}

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/precis-28m" },
    conversation: { type: "string", default: "examples/long-conversation.json" },
    messages: { type: "string", default: "32" },
    json: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  console.log(HELP);
} else {
  const { messages } = JSON.parse(readFileSync(values.conversation, "utf8")) as { messages: Message[] };
  const steps = messages.slice(0, Number(values.messages));
  const rest = messages.slice(steps.length);
  const pieces = Array.from({ length: Math.ceil(rest.length / SCORED_TOGETHER) }, (_, i) =>
    rest.slice(i * SCORED_TOGETHER, (i + 1) * SCORED_TOGETHER),
  );
  const { loadModel } = await built<typeof Precis>("index.js");
  const model = await loadModel(values.model);
  const rows: Measured[] = [];
  for (const method of METHODS) rows.push(...(await measure(model, method, values.model, { steps, pieces })));
  await model.dispose();
  console.log(
    values.json ? JSON.stringify({ model: values.model, messages: steps.length, rows }) : await describe(rows),
  );
}
