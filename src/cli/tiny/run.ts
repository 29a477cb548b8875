/** @file The three acts of `npm run train:tiny`: an untrained adapter, training, and both measured against the bounds. */
import { join, relative } from "node:path";
import type { MethodSpec } from "../../eval/method-spec.js";
import { formatEstimate, formatShare } from "../../eval/report/wording.js";
import type { EvaluationResult, ResultPoint } from "../../eval/result.js";
import { evaluate } from "../../eval/runner.js";
import { formatBytes } from "../../format/sizes.js";
import type { MetricsLine } from "../../train/run-directory.js";
import { runTraining } from "../../train/run-training.js";
import { writeLossPlot } from "../../train/loss-plot.js";
import { resolveModel } from "../../weights/hub.js";
import { openModel } from "../model-options.js";
import { ProgressLine } from "../progress-line.js";
import { styleOf } from "../style.js";
import { formatTable } from "../table.js";
import type { TrainFlags } from "../train/flags.js";
import { planRun } from "../train/plan.js";
import { formatDuration } from "../units.js";
import { QUESTION_STEP } from "./dialogues.js";

/** Options of `precis train`, and how much to measure on. */
export interface TinyFlags extends TrainFlags {
  questions: number;
}

/** What a run printed as JSON. */
export interface TinySummary {
  adapter: string;
  steps: number;
  trainingSeconds: number;
  totalSeconds: number;
  /** Perplexity and share of the gap closed, by what is remembered. */
  measured: Record<string, { perplexity: number; gapClosed?: number; bytes: number }>;
}

/** Names of what is measured, in the order of the table. */
const LABELS = {
  none: "nothing",
  full: "everything (full cache)",
  before: "compressed, before training",
  after: "compressed, after training",
  shuffled: "compressed, another dialogue's",
} as const;

/** Steps between two lines of progress. */
const PROGRESS_STEPS = 10;

/** Trains, measures and tells. */
export async function runTiny(flags: TinyFlags, signal: AbortSignal): Promise<void> {
  const startedAt = performance.now();
  const say = (text: string): boolean => process.stderr.write(`${text}\n`);
  const run = await planRun(flags, signal);
  const untrained = join(flags.output, "untrained");
  await run.saveAdapter(untrained, run.initialParameters(), { note: "starting values, not trained" });
  say(
    `Training ${run.trainer.layout.size.toLocaleString("en")} numbers; the model stays as it is. Ctrl-C stops and saves.`,
  );
  const result = await runTraining({ ...run, onStep: (line) => reportStep(line, flags.steps, say) });
  await writeLossPlot(join(flags.output, "loss.svg"), result.metrics);
  const adapter = result.adapterDirectory;
  if (signal.aborted) return void say("Stopped and saved; the same command goes on from here.");
  const evaluation = await measure(flags, { untrained, adapter }, signal);
  const trainingSeconds = result.metrics.at(-1)?.seconds ?? 0;
  const summary: TinySummary = {
    adapter,
    steps: result.step,
    trainingSeconds,
    totalSeconds: (performance.now() - startedAt) / 1000,
    measured: measuredOf(evaluation),
  };
  process.stdout.write(flags.json ? `${JSON.stringify(summary)}\n` : describe(summary, evaluation, flags));
}

function reportStep(line: MetricsLine, steps: number, say: (text: string) => void): void {
  const { step, loss, evalLoss, tokensPerSecond, seconds } = line;
  if (step % PROGRESS_STEPS !== 0 && step !== steps) return;
  const held = evalLoss === undefined ? "" : `, held-out ${evalLoss.toFixed(2)}`;
  const left = formatDuration((1000 * seconds * (steps - step)) / step);
  say(
    `step ${step} of ${steps}: loss ${loss.toFixed(2)}${held}; ${Math.round(tokensPerSecond)} tokens/s, ${left} left`,
  );
}

/** Perplexity of answers in held-out dialogues under each memory. */
async function measure(
  flags: TinyFlags,
  { untrained, adapter }: { untrained: string; adapter: string },
  signal: AbortSignal,
): Promise<EvaluationResult> {
  const directory = await resolveModel(flags.model, { signal });
  const model = await openModel(directory, { ...flags, dtype: "fp32" }, signal);
  const line = new ProgressLine();
  const compressed = (label: string, folder: string, shuffled = false): MethodSpec => {
    return { label, memory: { method: flags.method, adapter: folder, options: {} }, shuffled };
  };
  try {
    return await evaluate({
      evaluation: "conversation",
      model,
      dataDir: flags.data,
      methods: [
        { label: LABELS.none, memory: { method: "none" }, shuffled: false },
        { label: LABELS.full, memory: { method: "full" }, shuffled: false },
        compressed(LABELS.before, untrained),
        compressed(LABELS.after, adapter),
        compressed(LABELS.shuffled, adapter, true),
      ],
      steps: [QUESTION_STEP],
      limit: flags.questions,
      seed: flags.seed,
      signal,
      onProgress: ({ method, done, total }) => line.show(`Measuring ${method}: ${done} of ${total}`),
    });
  } finally {
    line.end();
    await model.dispose();
  }
}

/** The one point of each method. */
function pointsOf({ methods }: EvaluationResult): [label: string, point: ResultPoint][] {
  return methods.flatMap(({ label, points }) => points.map((point): [string, ResultPoint] => [label, point]));
}

function measuredOf(evaluation: EvaluationResult): TinySummary["measured"] {
  return Object.fromEntries(
    pointsOf(evaluation).map(([label, { metrics, gapClosed, memory }]) => [
      label,
      {
        perplexity: metrics.perplexity?.value ?? NaN,
        ...(gapClosed.perplexity === undefined ? {} : { gapClosed: gapClosed.perplexity.value }),
        bytes: memory.bytes,
      },
    ]),
  );
}

function describe(
  { adapter, trainingSeconds, totalSeconds }: TinySummary,
  evaluation: EvaluationResult,
  flags: TinyFlags,
): string {
  const { bold } = styleOf(process.stdout);
  const rows = pointsOf(evaluation).map(([label, { metrics, gapClosed, memory }]) => ({
    remembered: label,
    perplexity: metrics.perplexity === undefined ? "" : formatEstimate("perplexity", metrics.perplexity),
    gap: gapClosed.perplexity === undefined ? "" : formatShare(gapClosed.perplexity),
    memory: formatBytes(memory.bytes),
  }));
  const right = (key: string, heading: string) => ({ key, heading, align: "right" as const });
  const table = formatTable(rows, [
    { key: "remembered", heading: "what is remembered" },
    right("perplexity", "perplexity"),
    right("gap", "gap closed"),
    right("memory", "memory"),
  ]);
  const shown = relative(process.cwd(), adapter) || ".";
  return `
Perplexity of the answer to a question about what was told before, in held-out dialogues:

${table}

Values of held-out dialogues were never trained on. The gap runs from nothing to everything. More than 100% is no
mistake: the adapter also learns how answers are put. What it remembers shows against another dialogue's memory.

${bold("Adapter")}  ${shown} (trained in ${formatDuration(1000 * trainingSeconds)}; all in all ${formatDuration(1000 * totalSeconds)})
${bold("Plot")}     ${join(relative(process.cwd(), flags.output), "loss.svg")}
${bold("Talk")}     npm run -s precis -- chat --adapter ${shown}
         Tell it "I bought a red boat.", then ask "What did I buy?"; /memory shows what it keeps.
`;
}
