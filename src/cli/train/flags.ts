/** @file The options of `precis train`. */
import { join } from "node:path";
import { Option, type Command } from "commander";
import { PrecisError } from "../../errors.js";
import { DEVICES, type Device } from "../../runtime/device.js";
import { LONGEST_SPAN } from "../../sentinel/sentinel-tokens.js";
import { SPAN_PLACEMENTS, type SpanPlacement } from "../../sentinel/recent-rules.js";
import { STREAM_RELEASES, type StreamRelease } from "../../memory/methods/stream-compression.js";
import { LABEL_SCOPES, type LabelScope } from "../../train/batches.js";
import { PRECISIONS } from "../../train/loss-scale.js";
import { EMBEDDED_MODELS } from "../../weights/hub.js";

/** Options as commander gives them. */
export interface TrainFlags {
  model: string;
  method: string;
  data: string;
  output: string;
  mix?: string;
  only?: string[];
  without?: string[];
  randomLabels: number;
  inventedTasks: number;
  compTokens: number;
  recursive: boolean;
  conditional: boolean;
  sink: boolean;
  decay?: number;
  ratio?: readonly [low: number, high: number];
  spanWords: number;
  placement: SpanPlacement;
  blockTokens?: number;
  window?: number;
  compress?: number;
  memory?: number;
  release: StreamRelease;
  rank?: number;
  alpha?: number;
  loraDropout: number;
  targets: string;
  initAdapter?: string;
  steps: number;
  duration?: number;
  rows: number;
  rowLength: number;
  segmentLength: number;
  bptt?: number;
  accumulation: number;
  labels: LabelScope;
  labelBudget?: number;
  distill: number;
  distillTemperature: number;
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
  adapterDtype: "fp32" | "fp16";
  device: Device | "auto";
  threads?: number;
  timeLimit?: number;
  includeResearchOnly: boolean;
  recompute: boolean;
  precision: (typeof PRECISIONS)[number];
  json: boolean;
}

/** A finite number. */
export const number = (value: string): number => {
  const parsed = Number(value);
  if (value.trim() !== "" && Number.isFinite(parsed)) return parsed;
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a number.`, { value });
};

/** A number from 0 to 1. */
export const share = (value: string): number => {
  const parsed = number(value);
  if (parsed >= 0 && parsed <= 1) return parsed;
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a number from 0 to 1.`, { value });
};

/** A number from 0 to below 1. */
const rate = (value: string): number => {
  const parsed = share(value);
  if (parsed < 1) return parsed;
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a number below 1.`, { value });
};

/** A number above 0. */
export const positive = (value: string): number => {
  const parsed = number(value);
  if (parsed > 0) return parsed;
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a number above 0.`, { value });
};

/** A whole number from 1 on. */
export const wholeNumber = (value: string): number => {
  const parsed = number(value);
  if (Number.isInteger(parsed) && parsed >= 1) return parsed;
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a whole number from 1 on.`, { value });
};

/** A share from 0 to below 1, or a range of shares such as `0.1-0.9`. */
const shares = (value: string): readonly [number, number] => {
  const parts = value.split("-").map(number);
  const [low = 0, high = low] = parts;
  if (parts.length <= 2 && low >= 0 && high >= low && high < 1) return [low, high];
  throw new PrecisError("OPTION_INVALID", `"${value}" is not a ratio.`, {
    value,
    nextStep: "Give a number from 0 to below 1, or a range such as 0.1-0.9.",
  });
};

/** Adds them to a command. */
export function addTrainOptions(command: Command): Command {
  return command
    .option("--model <dir|id>", "base model", join(EMBEDDED_MODELS, "precis-28m"))
    .requiredOption(
      "--method <name>",
      "ccm-concat, ccm-merge, gist, streaming-ccm, compressive, autocompressor, rmt, sentinel, local, scattered or lora",
    )
    .requiredOption("--data <dir>", "folder of .jsonl(.gz) or .parquet data")
    .requiredOption("--output <dir>", "folder of the run: state, metrics, adapter; an unfinished run is resumed")
    .option("--mix <shares>", "shares of the settings, as conversation=4,icl=3,personal=1,stream=2")
    .option("--only <source...>", "only sources of these names")
    .option("--without <source...>", "no sources of these names")
    .option("--random-labels <share>", "tasks: share of samples whose labels are random words", share, 0.5)
    .option(
      "--invented-tasks <share>",
      "tasks: share of samples whose task is made up from the texts of all data, so that nothing can be learned by heart",
      share,
      0,
    )
    .option("--comp-tokens <n>", "COMP tokens of a time step, or its pooled slots or summary vectors", wholeNumber, 2)
    .option("--no-recursive", "compress each step without sight of the memory before it")
    .option("--no-conditional", "ccm-concat, ccm-merge, gist: a LoRA at every token instead of at COMP tokens only")
    .option("--sink", "keep the beginning-of-text token visible", false)
    .option("--decay <a>", "ccm-merge: moving average with this weight of the newest step, instead of the mean", number)
    .option(
      "--ratio <r>",
      "sentinel, local, scattered: share of the cache to do without; a range as 0.1-0.9 draws one for each text",
      shares,
    )
    .option("--span-words <n>", "sentinel: most words of a span", wholeNumber, LONGEST_SPAN)
    .addOption(
      new Option(
        "--placement <where>",
        "sentinel: spans at random, as published, or all over the text, whose tokens leave when they are no longer recent: one by one, or (spanwise) at the end of each span",
      )
        .choices([...SPAN_PLACEMENTS])
        .default("random"),
    )
    .option(
      "--block-tokens <n>",
      "train on plain text in blocks of n tokens, as sentinel, local and scattered always do (256), and streaming-ccm (what fits into a row); with lora: the ceiling to compare those with",
      wholeNumber,
    )
    .option("--window <n>", "streaming-ccm: most KV slots held (default 157)", wholeNumber)
    .option("--compress <n>", "streaming-ccm: oldest tokens compressed at once (default 32)", wholeNumber)
    .option("--memory <n>", "streaming-ccm: most memory slots (default 16)", wholeNumber)
    .addOption(
      new Option("--release <how>", "streaming-ccm: whether compressed tokens leave at once or one for each that comes")
        .choices([...STREAM_RELEASES])
        .default("gradual"),
    )
    .option("--rank <r>", "LoRA rank; default 8, or 16 on plain text", wholeNumber)
    .option("--alpha <a>", "LoRA alpha; default twice the rank", number)
    .option("--lora-dropout <rate>", "share of the LoRA's inputs to drop while training, 0 to below 1", rate, 0.05)
    .option("--targets <names>", "projections that get a LoRA; qkvo, mlp and all stand for several", "qkvo")
    .option("--init-adapter <dir>", "start from this adapter instead of fresh values; it must have the same shape")
    .option("--steps <n>", "optimiser steps", wholeNumber, 1000)
    .option(
      "--duration <seconds>",
      "train for this long in place of --steps; the learning rate follows the time",
      positive,
    )
    .option("--rows <n>", "rows of a micro-batch", wholeNumber, 8)
    .option("--row-length <n>", "tokens of a row; samples are packed into rows", wholeNumber, 512)
    .option("--segment-length <n>", "autocompressor, rmt: most tokens of a step, and of the input", wholeNumber, 128)
    .option(
      "--bptt <n>",
      "autocompressor, rmt: most summaries that a gradient passes back through; default: all",
      wholeNumber,
    )
    .option("--accumulation <n>", "micro-batches of a step", wholeNumber, 1)
    .addOption(
      new Option("--labels <scope>", "what the loss covers: the answer, those of later steps too, or all their text")
        .choices([...LABEL_SCOPES])
        .default("answer"),
    )
    .option(
      "--label-budget <n>",
      "most labels of a micro-batch; default: all, or an estimate from the data for answers",
      wholeNumber,
    )
    .option(
      "--distill <share>",
      "share of the loss that is the distance to the model with full context, 0 to 1",
      share,
      0,
    )
    .option("--distill-temperature <t>", "what logits are divided by for that distance", positive, 1)
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
    .addOption(
      new Option("--adapter-dtype <type>", "how the adapter's matrices are stored")
        .choices(["fp32", "fp16"])
        .default("fp32"),
    )
    .addOption(new Option("--device <name>", "where to train").choices([...DEVICES, "auto"]).default("auto"))
    .option("--recompute", "keep less memory: compute each layer again in the backward pass", false)
    .addOption(
      new Option(
        "--precision <type>",
        "fp32; fp16: matrix products in half floats, what is learned in fp32; int8: frozen matrices in 8 bits and sums in half floats too, faster still where a GPU has tensor cores; auto is fp16 on WebGPU",
      )
        .choices([...PRECISIONS])
        .default("auto"),
    )
    .option("--threads <n>", "CPU threads", wholeNumber)
    .option("--time-limit <seconds>", "save and stop after this long", number)
    .option("--include-research-only", "also data whose licence forbids commercial use", false)
    .option("--json", "print the result as JSON", false);
}
