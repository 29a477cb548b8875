/** @file `precis eval`: what memories keep of their context, measured on held-out data. */
import { Argument, Command, InvalidArgumentError } from "commander";
import type { Estimate } from "../../eval/bootstrap.js";
import { parseMethodSpec, type MethodSpec } from "../../eval/method-spec.js";
import { METRICS } from "../../eval/metrics.js";
import { renderReport } from "../../eval/report/html.js";
import { formatEstimate, formatShare } from "../../eval/report/wording.js";
import type { EvaluationResult } from "../../eval/result.js";
import { evaluate, type EvaluationProgress } from "../../eval/runner.js";
import { withControls } from "../../eval/shuffled.js";
import { EVALUATIONS, type EvaluationName } from "../../eval/tasks/task.js";
import { formatBytes, formatRatio } from "../../format/sizes.js";
import { writeFileAtomic } from "../../weights/files.js";
import { interruptible } from "../interrupt.js";
import {
  addModelOptions,
  chooseMemory,
  findModel,
  installedAdapters,
  wholeNumber,
  type ModelFlags,
} from "../model-options.js";
import { openModels } from "../model-pool.js";
import { ProgressLine } from "../progress-line.js";
import { styleOf } from "../style.js";
import { formatTable, type TableColumn } from "../table.js";
import { formatDuration } from "../units.js";

interface EvalFlags extends ModelFlags {
  data?: string;
  method: MethodSpec[];
  steps?: number[];
  limit?: number;
  seed: number;
  only?: string[];
  maxOptions: number;
  questions: number;
  shuffled?: boolean;
  workers?: number;
  report?: string;
  json?: boolean;
}

/** What each method is compared with unless methods are named. */
const BOUNDS = ["none", "full"];

/** Methods that take a share of the cache away without learning, and what they fall short of. */
const SHARES = ["full", "local", "scattered"];

const HELP = `
Examples:
  $ precis eval conversation --data DIR --method none --method full --method sliding-window,window=64
  $ precis eval multi-task --data DIR --method full --method none --method ccm-concat:my-adapter --report out.html
  $ precis eval recall --method none --method full --method ccm-concat:my-adapter --shuffled
  $ precis eval sentinel --data DIR --only books --method full --method sentinel:ADAPTER --method local:ADAPTER2
  $ precis eval streaming --data DIR --method sliding-window,budget=160 --method streaming,budget=160 --limit 1

A method is name[:adapterDir][,option=value…]; see "precis methods". Without a directory, a method that needs an adapter
takes the one that the model brings along. One more name, and options of the evaluation:
  gist-online     ccm-concat,recursive=false with an adapter trained to compress once
  shuffled=true   gives the memory another sample's context: what is left of its benefit is not memory
  budget=160      sets the window so that never more than 160 KV positions are held (methods with a window)

Evaluations, their default steps, and what --limit counts:
  conversation     perplexity of the next turn after 1,2,4,8,12 turns; dialogues per source
  multi-task       accuracy after 1,2,4,8,16 demonstrations of tasks never trained on; questions per task
  personalization  accuracy, and error of ratings, after 1,2,4,8,16 profile entries of new users; profiles per source, each
                   with its own question and, with --questions, others about what else the same user said
  streaming        perplexity over the first 1000,2000,4000,8000,16000 tokens of unseen books; books
  recall           accuracy on a random fact that came 1,2,4,8,16 time steps ago; contexts. Needs no --data
  sentinel         perplexity of blocks of 256 tokens of unseen prose with 10,20…90 percent of the cache taken away, by
                   sentinel, local or scattered, against full; blocks per source (default methods: all that need no adapter).
                   Spans are where the adapter was trained to have them: at random, or with policy=recent all over the text
  sentinel-generation  the same methods going on with long prompts: likeness to the true text, fluency; prompts per source

With the methods none and full, the gap between them that each other method closes is shown as well. --json adds the
differences between all methods, each with its interval, case by case.
`;

/** The command `precis eval`. */
export function evalCommand(): Command {
  const command = new Command("eval")
    .description("measure what memories keep of their context, on held-out data")
    .addArgument(new Argument("<evaluation>", "what to measure").choices(EVALUATIONS));
  return addModelOptions(command)
    .option("--data <dir>", "folder or file of data; every evaluation but recall needs it")
    .option("--method <spec>", "method to evaluate; may be repeated (default: none and full; see below)", addMethod)
    .option("--shuffled", "also every method with another sample's memory")
    .option("--steps <list>", "time steps, lengths of a stream, or shares in percent, separated by commas", stepList)
    .option("--limit <count>", "how much of the data to use", wholeNumber(1))
    .option("--seed <number>", "which part of the data", wholeNumber(0), 0)
    .option("--only <list>", "only these sources or tasks, separated by commas", (text) => text.split(","))
    .option("--max-options <count>", "leave tasks with more options out", wholeNumber(2), 12)
    .option("--questions <count>", "most questions about one user's profile (personalization)", wholeNumber(1), 1)
    .option("--workers <count>", "copies of the model that share the work (default: 1 below 8 cores)", wholeNumber(1))
    .option("--report <file>", "write tables and charts as one HTML file")
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action((evaluation: EvaluationName, flags: EvalFlags) =>
      interruptible((signal) => runEval(evaluation, flags, signal)),
    );
}

function addMethod(text: string, previous: MethodSpec[] = []): MethodSpec[] {
  return [...previous, parseMethodSpec(text)];
}

function stepList(text: string): number[] {
  return text.split(",").map((step) => {
    if (/^\d+$/.test(step)) return Number(step);
    throw new InvalidArgumentError("Write whole numbers separated by commas, such as 1,2,4.");
  });
}

async function runEval(evaluation: EvaluationName, flags: EvalFlags, signal: AbortSignal): Promise<void> {
  const directory = await findModel(flags, signal);
  const given = flags.method ?? (await usualMethods(evaluation, directory));
  const named = await Promise.all(given.map((spec) => withAdapter(directory, spec)));
  const chosen = flags.shuffled === true ? withControls(named) : named;
  await using models = await openModels(directory, flags, signal);
  const [model, ...helpers] = models.all;
  const line = new ProgressLine();
  const { data: dataDir, steps, limit, seed, only, maxOptions, questions } = flags;
  let result: EvaluationResult;
  try {
    result = await evaluate({
      evaluation,
      model,
      helpers,
      dataDir,
      methods: chosen,
      steps,
      limit,
      seed,
      only,
      maxOptions,
      questions,
      signal,
      onProgress: (progress) => line.show(describeProgress(progress, chosen.length)),
    });
  } finally {
    line.end();
  }
  if (flags.report !== undefined) await writeFileAtomic(flags.report, renderReport([result]));
  process.stdout.write(flags.json === true ? `${JSON.stringify(result, null, 2)}\n` : describeResult(result, flags));
}

/** The methods that an evaluation compares unless told otherwise; sentinel tokens only with an adapter trained for them. */
async function usualMethods(evaluation: EvaluationName, directory: string): Promise<MethodSpec[]> {
  const isShares = evaluation === "sentinel" || evaluation === "sentinel-generation";
  if (!isShares) return BOUNDS.map((name) => parseMethodSpec(name));
  const installed = (await installedAdapters(directory)).some(({ method }) => method === "sentinel");
  return [...(installed ? ["sentinel"] : []), ...SHARES].map((name) => parseMethodSpec(name));
}

/** A method that needs an adapter and names none takes an installed one. */
async function withAdapter(directory: string, spec: MethodSpec): Promise<MethodSpec> {
  const { method, adapter, options } = spec.memory;
  const set = Object.fromEntries(Object.entries(options ?? {}).map(([name, value]) => [name, String(value)]));
  const memory = await chooseMemory(directory, { method, adapter, set });
  return { ...spec, memory: { ...memory, method } };
}

function shareOf(gap: Estimate | undefined): string {
  return gap === undefined ? "" : formatShare(gap);
}

function describeProgress({ method, methodIndex, done, total }: EvaluationProgress, methods: number): string {
  return `${method} (${methodIndex + 1} of ${methods}): ${done} of ${total}`;
}

function describeResult(result: EvaluationResult, { report }: EvalFlags): string {
  const metrics = Object.values(METRICS).filter(({ name }) =>
    result.methods.some(({ points }) => points.some((point) => point.metrics[name] !== undefined)),
  );
  const rows = result.methods.flatMap(({ label, points }) =>
    points.map(({ step, metrics: found, gapClosed, memory }) => ({
      method: label,
      step,
      ...Object.fromEntries(
        Object.values(METRICS).map(({ name }) => {
          const estimate = found[name];
          return [name, estimate === undefined ? "" : formatEstimate(name, estimate)];
        }),
      ),
      gap: shareOf(gapClosed[result.primary]),
      slots: Math.round(memory.slots),
      memory: formatBytes(memory.bytes),
      peak: formatBytes(memory.peakBytes),
      full: formatBytes(memory.fullBytes),
      ratio: formatRatio(memory.bytes === 0 ? 0 : memory.fullBytes / memory.bytes),
    })),
  );
  const hasGap = rows.some(({ gap }) => gap !== "");
  const right = (key: string, heading = key): TableColumn => ({ key, heading, align: "right" });
  const table = formatTable(rows, [
    "method",
    "step",
    ...metrics.map(({ name, label }) => right(name, label)),
    ...(hasGap ? [right("gap")] : []),
    "slots",
    right("memory"),
    right("peak"),
    right("full", "full cache"),
    right("ratio"),
  ]);
  const { dim } = styleOf(process.stdout);
  const cases = Object.entries(result.sources).map(([name, count]) => `${name} ${count}`);
  const seconds = result.methods.reduce((sum, method) => sum + method.seconds, 0);
  const notes = [
    `95% intervals; ${cases.join(", ")}; ${formatDuration(1000 * seconds)}`,
    ...(report === undefined ? [] : [`report: ${report}`]),
  ];
  return `${table}\n\n${notes.map((note) => dim(note)).join("\n")}\n`;
}
