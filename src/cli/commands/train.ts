/** @file `precis train`: learn a compression adapter, or an ordinary LoRA, on top of a frozen model. */
import { Command, Option } from "commander";
import { EpisodeSampler, type SampleOptions } from "../../data/sample.js";
import type { Episode, Setting } from "../../data/episode.js";
import { SETTINGS } from "../../data/episode.js";
import { PrecisError } from "../../errors.js";
import type { LoraTarget } from "../../models/decoder.js";
import { DEVICES, type Device } from "../../runtime/device.js";
import { openBaseModel, type BaseModel } from "../../train/base-model.js";
import { packedBatches, type LabelScope } from "../../train/batches.js";
import { ParallelPass } from "../../train/parallel-pass.js";
import { saveTrainedAdapter } from "../../train/save-adapter.js";
import { initialParameters, layoutParameters } from "../../train/parameters.js";
import type { PaddedBatch, ParallelMode } from "../../train/parallel-layout.js";
import { workerBatches, type PortableSample } from "../../train/batch-thread.js";
import { runTraining, type TrainingRun } from "../../train/run-training.js";
import type { MetricsLine } from "../../train/run-directory.js";
import { writeLossPlot } from "../../train/loss-plot.js";
import { EMBEDDED_MODELS, resolveModel } from "../../weights/hub.js";
import { join } from "node:path";

/** Options as commander gives them. */
interface TrainFlags {
  model: string;
  method: string;
  data: string;
  output: string;
  mix?: string;
  only?: string[];
  compTokens: number;
  recursive: boolean;
  sink: boolean;
  decay?: number;
  rank: number;
  alpha: number;
  targets: string;
  steps: number;
  rows: number;
  rowLength: number;
  accumulation: number;
  labels: LabelScope;
  learningRate: number;
  warmup: number;
  schedule: "cosine" | "constant";
  weightDecay: number;
  clip: number;
  seed: number;
  maxSteps: number;
  evalEvery: number;
  evalEpisodes: number;
  saveEvery: number;
  device: Device | "auto";
  threads?: number;
  timeLimit?: number;
  includeResearchOnly: boolean;
  recompute: boolean;
  json: boolean;
}

const number = (value: string): number => {
  const parsed = Number(value);
  if (value.trim() !== "" && Number.isFinite(parsed)) return parsed;
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a number.`, { value });
};

/** A whole number from 1 on. */
const wholeNumber = (value: string): number => {
  const parsed = number(value);
  if (Number.isInteger(parsed) && parsed >= 1) return parsed;
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a whole number from 1 on.`, { value });
};

/** Methods that can be trained, the memory method that the adapter is for, and how a sample is laid out. */
function trainingMode(flags: TrainFlags, model: BaseModel): { mode: ParallelMode; memoryMethod: string | undefined } {
  const { recursive, sink, compTokens, decay } = flags;
  const { vocabSize } = model.config;
  const ids = { vocabSize, padId: model.tokenizer.padId ?? 0, bosId: model.tokenizer.bosId ?? -1 };
  const common = { ...ids, recursive, compTokens, sink };
  switch (flags.method) {
    case "ccm-concat":
      return { mode: { ...common, method: "concat" }, memoryMethod: "ccm-concat" };
    case "ccm-merge":
      return { mode: { ...common, method: "merge", decay }, memoryMethod: "ccm-merge" };
    case "gist":
      return { mode: { ...common, method: "gist" }, memoryMethod: "gist" };
    case "lora":
      return { mode: { ...ids, method: "full" }, memoryMethod: undefined };
    default:
      throw new PrecisError("METHOD_UNKNOWN", `The method "${flags.method}" cannot be trained.`, {
        value: flags.method,
        nextStep: "Use ccm-concat, ccm-merge, gist, or lora (an ordinary LoRA with full context).",
      });
  }
}

/** Options of the memory method that the adapter should be used with. */
function methodOptions({ method, recursive, sink, decay, maxSteps, compTokens }: TrainFlags): Record<string, unknown> {
  const sinks = { sink: sink ? 1 : 0 };
  switch (method) {
    case "ccm-concat":
      // More slots than training ever showed confuse the model; the oldest then go.
      return { recursive, ...sinks, limit: maxSteps * compTokens };
    case "ccm-merge":
      return { recursive, ...sinks, ...(decay === undefined ? {} : { average: "ema", decay }) };
    default:
      return sinks;
  }
}

function mixture(text: string | undefined): SampleOptions["weights"] {
  if (text === undefined) return undefined;
  return Object.fromEntries(
    text.split(",").map((part) => {
      const [name = "", share = "1"] = part.split("=");
      if ((SETTINGS as readonly string[]).includes(name)) return [name as Setting, number(share)];
      throw new PrecisError("OPTION_INVALID", `There is no setting "${name}".`, {
        value: name,
        nextStep: `Settings: ${SETTINGS.join(", ")}.`,
      });
    }),
  );
}

async function* first(sampler: EpisodeSampler, count: number): AsyncGenerator<Episode, void, void> {
  for (let index = 0; index < count; index++) yield sampler.at(index);
}

/** The part of the options that can be sent to a thread. */
function portable({
  tokenizer: _tokenizer,
  template: _template,
  signal: _signal,
  ...rest
}: SampleOptions): PortableSample {
  return rest;
}

/** Held-out episodes come from official dev splits; data without one simply are not evaluated on. */
async function openHeldOut(options: SampleOptions): Promise<EpisodeSampler | undefined> {
  return EpisodeSampler.open({ ...options, split: "dev" }).catch((error: unknown) => {
    if (error instanceof PrecisError && error.code === "OPTION_INVALID") return undefined;
    throw error;
  });
}

/** Tokens of text that fit into a row beside the COMP tokens of the longest sample; merging doubles those. */
function textRoom({ method, rowLength, maxSteps }: TrainFlags, compTokens: number): number {
  const newTokens = compTokens * (method === "gist" ? 1 : maxSteps) * (method === "ccm-merge" ? 2 : 1);
  if (newTokens < rowLength) return rowLength - newTokens;
  throw new PrecisError(
    "OPTION_INVALID",
    `A row of ${rowLength} tokens has no room for text beside ${newTokens} COMP tokens.`,
    { value: rowLength, nextStep: "Raise --row-length, or lower --max-steps or --comp-tokens." },
  );
}

async function planRun(flags: TrainFlags, signal: AbortSignal): Promise<TrainingRun<PaddedBatch>> {
  const model = await openBaseModel(await resolveModel(flags.model, { signal }));
  const { mode, memoryMethod } = trainingMode(flags, model);
  const targets = flags.targets.split(",").map((name): LoraTarget => {
    const block = ["gate_proj", "up_proj", "down_proj"].includes(name) ? "mlp" : "self_attn";
    return `${block}.${name}` as LoraTarget;
  });
  const compTokens = memoryMethod === undefined ? 0 : flags.compTokens;
  const parameters = { rank: flags.rank, targets, compTokens };
  const layout = layoutParameters(model.config, parameters);
  const sample: SampleOptions = {
    dataDir: flags.data,
    tokenizer: model.tokenizer,
    template: model.template,
    weights: mixture(flags.mix),
    seed: flags.seed,
    maxSteps: flags.maxSteps,
    maxTokens: textRoom(flags, compTokens),
    includeResearchOnly: flags.includeResearchOnly,
    only: flags.only,
    signal,
  };
  const batches = { mode, rows: flags.rows, rowLength: flags.rowLength, labels: flags.labels };
  const sampler = await EpisodeSampler.open(sample);
  const held = await openHeldOut(sample);
  const { device, threads, timeLimit, recompute, json, output, saveEvery, evalEvery, accumulation, ...decisive } =
    flags;
  void json;
  const { config, weights, weightsFolder } = model;
  const engine = { weightsFolder, device, threads };
  const spec = {
    ...parameters,
    batch: flags.rows,
    seq: flags.rowLength,
    labels: flags.rows * flags.rowLength,
    loraScale: flags.alpha / flags.rank,
    averaging: flags.method === "ccm-merge",
    recompute,
  };
  return {
    output,
    trainer: {
      layout,
      pass: () => ParallelPass.create({ config, weights, spec, engine }),
      optimizer: { weightDecay: flags.weightDecay, clipNorm: flags.clip },
      engine,
    },
    initialParameters: () => initialParameters(config, layout, flags.seed, model.embedding),
    tokensPerBatch: flags.rows * flags.rowLength,
    schedule: { learningRate: flags.learningRate, steps: flags.steps, warmupRatio: flags.warmup, kind: flags.schedule },
    accumulation,
    openBatches: (skip) => workerBatches({ modelDirectory: model.directory, sample: portable(sample), batches, skip }),
    heldOut: held === undefined ? undefined : () => packedBatches(first(held, flags.evalEpisodes), batches),
    evalEvery,
    saveEvery,
    saveAdapter: (directory, values, trainingSummary) =>
      saveTrainedAdapter(directory, config, spec, layout, values, {
        alpha: flags.alpha,
        base: model.fingerprint,
        trainingSummary,
        ...(memoryMethod === undefined ? {} : { method: memoryMethod, methodOptions: methodOptions(flags) }),
      }),
    // Paths differ between machines; what was learned from does not.
    options: {
      ...decisive,
      accumulation,
      model: undefined,
      data: undefined,
      sources: sampler.sources.map(({ name }) => name),
    },
    timeLimit,
    signal,
  };
}

function progressLine(line: MetricsLine, steps: number): string {
  const left = Math.round(((steps - line.step) * line.seconds) / line.step);
  const minutes = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  const evaluated = line.evalLoss === undefined ? "" : `  held-out ${line.evalLoss.toFixed(4)}`;
  return `step ${line.step}/${steps}  loss ${line.loss.toFixed(4)}${evaluated}  |g| ${line.gradientNorm.toFixed(2)}  lr ${line.learningRate.toExponential(1)}  ${Math.round(line.tokensPerSecond)} tok/s  ${minutes} left`;
}

async function train(flags: TrainFlags, signal: AbortSignal): Promise<void> {
  const run = await planRun(flags, signal);
  const { size } = run.trainer.layout;
  process.stderr.write(`${size.toLocaleString("en")} trained parameters; state and metrics in ${flags.output}\n`);
  const result = await runTraining({
    ...run,
    onStep: (line) => process.stderr.write(`${progressLine(line, flags.steps)}\n`),
  });
  const plot = join(flags.output, "loss.svg");
  await writeLossPlot(plot, result.metrics);
  const last = result.metrics[result.metrics.length - 1];
  const summary = {
    finished: result.finished,
    step: result.step,
    loss: last?.loss,
    evalLoss: last?.evalLoss,
    adapter: result.adapterDirectory,
    plot,
  };
  if (flags.json) process.stdout.write(`${JSON.stringify(summary)}\n`);
  else {
    const state = result.finished ? "Finished" : `Stopped; the same command goes on from here`;
    process.stdout.write(
      `${state}: step ${result.step}, loss ${last?.loss.toFixed(4)}.\nAdapter: ${result.adapterDirectory}\nPlot: ${plot}\n`,
    );
  }
}

/** `precis train`. */
export function trainCommand(): Command {
  const command = new Command("train")
    .description("Train a compression adapter (ccm-concat, ccm-merge, gist) or an ordinary LoRA on a frozen model.")
    .option("--model <dir|id>", "base model", join(EMBEDDED_MODELS, "precis-28m"))
    .requiredOption("--method <name>", "ccm-concat, ccm-merge, gist or lora")
    .requiredOption("--data <dir>", "folder of .jsonl(.gz) or .parquet data")
    .requiredOption("--output <dir>", "folder of the run: state, metrics, adapter; an unfinished run is resumed")
    .option("--mix <shares>", "shares of the settings, as conversation=4,icl=3,personal=1,stream=2")
    .option("--only <source...>", "only sources of these names")
    .option("--comp-tokens <n>", "COMP tokens of a time step", wholeNumber, 2)
    .option("--no-recursive", "compress each step without sight of the memory before it")
    .option("--sink", "keep the beginning-of-text token visible", false)
    .option("--decay <a>", "ccm-merge: moving average with this weight of the newest step, instead of the mean", number)
    .option("--rank <r>", "LoRA rank", wholeNumber, 8)
    .option("--alpha <a>", "LoRA alpha", number, 16)
    .option("--targets <names>", "projections that get a LoRA", "q_proj,k_proj,v_proj,o_proj")
    .option("--steps <n>", "optimiser steps", wholeNumber, 1000)
    .option("--rows <n>", "rows of a micro-batch", wholeNumber, 8)
    .option("--row-length <n>", "tokens of a row; samples are packed into rows", wholeNumber, 512)
    .option("--accumulation <n>", "micro-batches of a step", wholeNumber, 1)
    .addOption(
      new Option("--labels <scope>", "what the loss covers: the answer, or all text after the first step")
        .choices(["answer", "all"])
        .default("answer"),
    )
    .option("--learning-rate <x>", "highest learning rate", number, 3e-4)
    .option("--warmup <share>", "share of the steps for warm-up", number, 0.03)
    .addOption(
      new Option("--schedule <kind>", "learning-rate schedule").choices(["cosine", "constant"]).default("cosine"),
    )
    .option("--weight-decay <x>", "AdamW weight decay", number, 0)
    .option("--clip <norm>", "largest gradient norm", number, 1)
    .option("--seed <n>", "seed of data order and starting values", number, 42)
    .option("--max-steps <n>", "most time steps of a sample", wholeNumber, 16)
    .option("--eval-every <n>", "steps between evaluations on held-out data", wholeNumber, 100)
    .option("--eval-episodes <n>", "held-out samples of an evaluation", wholeNumber, 64)
    .option("--save-every <n>", "steps between saves", wholeNumber, 100)
    .addOption(new Option("--device <name>", "where to train").choices([...DEVICES, "auto"]).default("auto"))
    .option("--recompute", "keep less memory: compute each layer again in the backward pass", false)
    .option("--threads <n>", "CPU threads", wholeNumber)
    .option("--time-limit <seconds>", "save and stop after this long", number)
    .option("--include-research-only", "also data whose licence forbids commercial use", false)
    .option("--json", "print the result as JSON", false)
    .addHelpText(
      "after",
      `
Examples:
  A first adapter on the CPU, in minutes:
    $ precis train --method ccm-concat --data ./data --output runs/concat --steps 200 --rows 4 --row-length 256
  The paper's recipe on a GPU:
    $ precis train --method ccm-merge --comp-tokens 8 --data ./data --output runs/merge --rows 32 --device webgpu
  Use it:
    $ precis chat --adapter runs/concat/adapter
`,
    );
  return command.action(async (flags: TrainFlags) => {
    const controller = new AbortController();
    const stop = (): void => controller.abort();
    process.once("SIGINT", stop);
    try {
      await train(flags, controller.signal);
    } finally {
      process.off("SIGINT", stop);
    }
  });
}
