/** @file `npm run bench:train`: how fast the library trains a compression adapter, and where the time goes. */
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { choice, wholeNumber } from "./arguments.js";
import { median } from "./measure.js";
import { formatDevice, formatProfile, summarizeDevice, summarizeProfile } from "./profile-summary.js";
import { watchOthers } from "./quiet.js";
import { countStep } from "./training/count.js";
import { root } from "./training/library.js";
import type { Precision } from "../dist/train/loss-scale.js";
import type { PaddedBatch } from "../dist/train/padded-batch.js";
import { prepareWorkload, type Workload, type WorkloadOptions } from "./training/workload.js";

const HELP = `Usage: npm run bench:train -- [options]
  --device NAME      cpu (default) or webgpu
  --rows N           rows of a batch (default 4)
  --row-length N     tokens of a row (default 256)
  --labels SCOPE     what is predicted: all text (default) or the answer only
  --rank N           LoRA rank on q, k, v and o (default 16)
  --comp-tokens N    COMP tokens of a time step (default 4)
  --precision P      fp32 (default), fp16, int8, or several joined by commas: measured in turn and shown side by side;
                     the peak memory of later ones is then that of all before too
  --recompute        compute layers again in the backward pass instead of keeping them
  --model DIR        frozen model (default: the embedded one)
  --threads N        CPU threads (default: as many as cores)
  --warmup N         steps before the clock starts (default 2)
  --steps N          measured steps (default 7)
  --profile          after measuring, run again under ONNX Runtime's profiler and sum up time by operator
  --by-shape         with --profile: tell matrix products, and kernels of a device, apart by their sizes
  --count            run nothing; count the nodes of a step by operator, and what they read and write
  --json FILE        write the measurements too; "-" prints them instead of the text`;

/** What one run measured. */
interface TrainingReport {
  machine: Record<string, string | number>;
  settings: Omit<WorkloadOptions, "model">;
  device: string;
  tokensPerStep: number;
  labels: number;
  parameters: number;
  /** Milliseconds of each measured step. */
  steps: number[];
  tokensPerSecond: { median: number; lowest: number; highest: number };
  /** Loss of the last step. */
  loss: number;
  peakMemoryMB: number;
  /** Share of all cores that other programs used meanwhile. */
  disturbance: number;
}

/** Takes steps, one batch each, as training does: forward, backward, clipping and AdamW. */
async function takeSteps({ trainer, batches }: Workload, count: number): Promise<{ times: number[]; loss: number }> {
  const times: number[] = [];
  const batchOf = (step: number): PaddedBatch => batches[step % batches.length] as PaddedBatch;
  let loss = NaN;
  for (let i = 0; i < count; i++) {
    const { step } = trainer;
    const startedAt = performance.now();
    ({ loss } = await trainer.takeStep([batchOf(step)], 1e-4, () => batchOf(step + 1)));
    times.push(performance.now() - startedAt);
  }
  return { times, loss };
}

async function measure(options: WorkloadOptions, warmup: number, steps: number): Promise<TrainingReport> {
  const workload = await prepareWorkload(options);
  try {
    await takeSteps(workload, warmup);
    const others = watchOthers();
    const { times, loss } = await takeSteps(workload, steps);
    const disturbance = others();
    const tokensPerStep = options.rows * options.rowLength;
    const rates = times.map((milliseconds) => (1000 * tokensPerStep) / milliseconds);
    const { model: _model, ...settings } = options;
    return {
      machine: { cpu: cpus()[0]?.model.trim() ?? "unknown", cores: availableParallelism(), node: process.version },
      settings,
      device: workload.trainer.device,
      tokensPerStep,
      labels: workload.labels,
      parameters: workload.parameters,
      steps: times,
      tokensPerSecond: { median: median(rates), lowest: Math.min(...rates), highest: Math.max(...rates) },
      loss,
      peakMemoryMB: Math.round(process.resourceUsage().maxRSS / 1000),
      disturbance,
    };
  } finally {
    await workload.trainer.dispose();
  }
}

/** Steps that are profiled; more only make the files longer. */
const PROFILED_STEPS = 4;

/** A run of its own, because profiling slows it down. The trainer's sessions write one file each. */
async function profile(options: WorkloadOptions, byShape: boolean): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "precis-profile-"));
  try {
    const workload = await prepareWorkload({ ...options, profilePrefix: join(folder, "run") });
    try {
      await takeSteps(workload, PROFILED_STEPS);
    } finally {
      await workload.trainer.dispose();
    }
    const files = readdirSync(folder).map((file) => join(folder, file));
    const largest = files.sort((a, b) => statSync(b).size - statSync(a).size);
    // Sessions that did not run, such as the one that reads the state, have nothing to say.
    return largest
      .flatMap((file) => {
        const device = summarizeDevice(file, { byShape });
        const groups = summarizeProfile(file, { byShape }).filter(({ runs }) => runs > 0);
        return [
          ...(device === undefined ? [] : [formatDevice(device)]),
          ...(groups.length ? [formatProfile(groups)] : []),
        ];
      })
      .join("\n\n");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function formatReport(report: TrainingReport): string {
  const { machine, settings, device, tokensPerSecond, steps, labels, parameters, loss } = report;
  const { rows, rowLength, rank, compTokens } = settings;
  const rate = (value: number): string => value.toFixed(0);
  return [
    `${rate(tokensPerSecond.median)} tokens/s trained on ${device}, median of ${steps.length} steps ` +
      `(${rate(tokensPerSecond.lowest)} to ${rate(tokensPerSecond.highest)}); ${median(steps).toFixed(0)} ms a step`,
    `${rows} rows of ${rowLength} tokens, ${labels} labels; ccm-concat with ${compTokens} COMP tokens, LoRA rank ${rank}, ${settings.precision} ` +
      `(${parameters} parameters); loss ${loss.toFixed(3)}; peak memory ${report.peakMemoryMB} MB`,
    `${machine["cpu"]}, ${machine["cores"]} cores, Node ${machine["node"]}; ` +
      `other programs used ${(100 * report.disturbance).toFixed(0)} % of the CPU`,
  ].join("\n");
}

/** Runs of several precisions in one table. */
function formatComparison(reports: readonly TrainingReport[]): string {
  const [first] = reports;
  const columns = ["precision", "tokens/s", "ms a step", "gain", "loss"];
  const rows = reports.map(({ settings, tokensPerSecond, steps, loss }) => [
    settings.precision,
    tokensPerSecond.median.toFixed(0),
    median(steps).toFixed(1),
    `${(tokensPerSecond.median / (first as TrainingReport).tokensPerSecond.median).toFixed(2)}x`,
    loss.toFixed(4),
  ]);
  return [columns, ...rows].map((cells) => cells.map((cell) => cell.padStart(10)).join("")).join("\n");
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      device: { type: "string", default: "cpu" },
      rows: { type: "string", default: "4" },
      "row-length": { type: "string", default: "256" },
      labels: { type: "string", default: "all" },
      rank: { type: "string", default: "16" },
      "comp-tokens": { type: "string", default: "4" },
      precision: { type: "string", default: "fp32" },
      recompute: { type: "boolean", default: false },
      model: { type: "string", default: fileURLToPath(new URL("models/precis-28m", root)) },
      threads: { type: "string", default: String(availableParallelism()) },
      warmup: { type: "string", default: "2" },
      steps: { type: "string", default: "7" },
      profile: { type: "boolean", default: false },
      "by-shape": { type: "boolean", default: false },
      count: { type: "boolean", default: false },
      json: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values.help === true) {
    console.log(HELP);
    return;
  }
  const precisions = values.precision
    .split(",")
    .map((word) => choice<Precision>("precision", word, ["fp32", "fp16", "int8"]));
  const options: Omit<WorkloadOptions, "precision"> = {
    model: values.model,
    device: choice("device", values.device, ["cpu", "webgpu"]),
    threads: wholeNumber("threads", values.threads),
    rows: wholeNumber("rows", values.rows),
    rowLength: wholeNumber("row-length", values["row-length"]),
    labels: choice("labels", values.labels, ["all", "answer"]),
    compTokens: wholeNumber("comp-tokens", values["comp-tokens"]),
    rank: wholeNumber("rank", values.rank),
    recompute: values.recompute,
  };
  if (values.count) {
    for (const name of precisions) console.log(await countStep({ ...options, precision: name }));
    return;
  }
  const [warmup, steps] = [wholeNumber("warmup", values.warmup), wholeNumber("steps", values.steps)];
  const reports: TrainingReport[] = [];
  for (const name of precisions) reports.push(await measure({ ...options, precision: name }, warmup, steps));
  const json = JSON.stringify(reports.length === 1 ? reports[0] : reports, null, 2);
  if (values.json === "-") console.log(json);
  else {
    if (values.json !== undefined) writeFileSync(values.json, json);
    console.log(reports.map(formatReport).join("\n\n"));
    if (reports.length > 1) console.log(`\n${formatComparison(reports)}`);
  }
  if (!values.profile) return;
  for (const name of precisions) {
    console.log(`\n${name}\n${await profile({ ...options, precision: name }, values["by-shape"])}`);
  }
}

await main();
