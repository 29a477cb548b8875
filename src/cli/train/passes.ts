/** @file How the samples of `precis train` become batches and gradients: by one parallel pass, or segment by segment. */
import type { EpisodeSampler } from "../../data/sample.js";
import { PrecisError } from "../../errors.js";
import type { DecoderWeights } from "../../models/decoder-weights.js";
import type { BaseModel } from "../../train/base-model.js";
import { workerBatches, type PortableSample } from "../../train/batch-thread.js";
import { layoutEpisode, packedBatches, type BatchOptions } from "../../train/batches.js";
import type { DropoutOptions } from "../../train/lora-dropout.js";
import { resolvePrecision } from "../../train/loss-scale.js";
import { countLabels, estimateLabelBudget, type LabelBudget } from "../../train/packing.js";
import { sumTokenIds } from "../../train/parallel-mode.js";
import { ParallelPass } from "../../train/parallel-pass.js";
import type { ParameterSpec } from "../../train/parameters.js";
import { RecurrentPass } from "../../train/recurrent-pass.js";
import type { TrainingRun } from "../../train/run-training.js";
import { segmentedBatches, type SegmentBatchOptions } from "../../train/segment-batches.js";
import { promptSlots, segmentWidth, type SegmentedBatch, type SegmentShape } from "../../train/segments.js";
import { layoutStream } from "../../train/stream-layout.js";
import { isTextMode } from "../../train/text-layout.js";
import type { DistilledBatch } from "../../train/training-batch.js";
import type { TrainingGraphSpec } from "../../train/training-graph.js";
import type { EngineOptions } from "../../runtime/engine-session.js";
import { first } from "./data.js";
import type { TrainFlags } from "./flags.js";
import type { TrainingMode } from "./mode.js";

/** What a plan starts from. */
export interface PassParts {
  flags: TrainFlags;
  model: BaseModel;
  /** Those of the run's precision. */
  weights: () => DecoderWeights;
  mode: TrainingMode;
  parameters: ParameterSpec;
  loraScale: number;
  engine: EngineOptions;
  sample: PortableSample;
  sampler: EpisodeSampler;
  /** Held-out data, if there are any. */
  held: EpisodeSampler | undefined;
}

/** The part of a run that depends on how samples become gradients. */
export interface PlannedPasses<Batch> extends Pick<TrainingRun<Batch>, "openBatches" | "heldOut" | "tokensOf"> {
  pass: TrainingRun<Batch>["trainer"]["pass"];
  /** Most labels of a micro-batch; undefined where there is no such limit. */
  labelBudget: number | undefined;
}

/** Samples that an automatic label budget is estimated from. */
const SAMPLES_FOR_BUDGET = 256;

/** The labels of a micro-batch: as asked, or all places when all text is labelled, or what answers rarely exceed. */
function labelBudget(flags: TrainFlags, batches: BatchOptions, sampler: EpisodeSampler): LabelBudget {
  const { rows, rowLength, seed } = flags;
  const { labels } = batches;
  const capacity = rows * rowLength;
  const surplus = labels === "all" ? "drop" : "close";
  if (flags.labelBudget !== undefined) return { most: Math.min(flags.labelBudget, capacity), surplus, seed };
  const { mode } = batches;
  if (mode.method === "streaming") {
    // All blocks are alike, and much of each has no labels.
    const layout = layoutStream(
      Array.from({ length: mode.blockTokens }, () => mode.padId),
      mode,
    );
    return { most: rows * Math.floor(rowLength / layout.seq) * countLabels(layout), surplus, seed };
  }
  if (labels === "all") return { most: capacity, surplus, seed };
  const layouts = Array.from({ length: SAMPLES_FOR_BUDGET }, (_, index) =>
    layoutEpisode(sampler.at(index), batches.mode, labels),
  );
  return { most: estimateLabelBudget(layouts, rows, rowLength), surplus, seed };
}

/** What only some runs ask of a graph. */
function graphOptions({ recompute, precision, device, ...flags }: TrainFlags): Partial<TrainingGraphSpec> {
  return {
    recompute,
    precision: resolvePrecision(precision, device),
    conditional: flags.conditional,
    ...dropoutOf(flags),
  };
}

function dropoutOf({ loraDropout: rate, seed }: Pick<TrainFlags, "loraDropout" | "seed">): {
  dropout?: DropoutOptions;
} {
  return rate > 0 ? { dropout: { rate, seed } } : {};
}

/** Packed rows, one graph run for each batch. */
export function parallelPasses(parts: PassParts): PlannedPasses<DistilledBatch> {
  const { flags, model, weights, parameters, loraScale, engine, sample, sampler, held } = parts;
  const { mode } = parts.mode;
  const { rows, rowLength } = flags;
  const shape = { mode, rows, rowLength, labels: isTextMode(mode) ? ("all" as const) : flags.labels };
  const budget = labelBudget(flags, shape, sampler);
  const batches: BatchOptions = { ...shape, labelBudget: budget, teacher: flags.distill > 0 };
  // Held-out data are measured whole, however many labels they have.
  const heldOut: BatchOptions = { ...shape, labelBudget: { ...budget, surplus: "close" } };
  const spec = {
    ...parameters,
    batch: rows,
    seq: rowLength,
    labels: budget.most,
    loraScale,
    averaging: !isTextMode(mode) && sumTokenIds(mode).length > 0,
    ...graphOptions(flags),
    ...(flags.distill > 0 ? { distill: { weight: flags.distill, temperature: flags.distillTemperature } } : {}),
  };
  const { config } = model;
  return {
    pass: () => ParallelPass.create({ config, weights, spec, engine }),
    tokensOf: ({ batch, seq }) => batch * seq,
    openBatches: (skip) => workerBatches({ modelDirectory: model.directory, sample, batches, skip }),
    ...(held === undefined ? {} : { heldOut: () => packedBatches(first(held, flags.evalEpisodes), heldOut) }),
    labelBudget: budget.most,
  };
}

/**
 * One sample to a row, one graph run for each segment and direction.
 * @throws OPTION_INVALID for options that only packed rows have
 */
export function recurrentPasses(parts: PassParts, accumulate: boolean): PlannedPasses<SegmentedBatch> {
  const { flags, model, weights, parameters, loraScale, engine, sample, held } = parts;
  const { rows, segmentLength, maxSteps, labels, seed } = flags;
  if (flags.distill > 0 || flags.labelBudget !== undefined) {
    throw new PrecisError("OPTION_INVALID", `Training ${flags.method} takes neither --distill nor --label-budget.`, {
      nextStep:
        "Leave it out: every label of a batch counts, and there is no pass with the full context to learn from.",
    });
  }
  const { config, tokenizer } = model;
  const { compTokens } = parameters;
  const ids = { vocabSize: config.vocabSize, padId: tokenizer.padId ?? 0 };
  const shape: SegmentShape = { rows, segmentLength, compTokens, accumulate, maxSteps, ...ids };
  const seq = segmentWidth(shape);
  if (seq > config.maxPositions) {
    throw new PrecisError("OPTION_INVALID", `A segment of ${seq} tokens exceeds the model's ${config.maxPositions}.`, {
      value: seq,
      nextStep: "Lower --segment-length, --max-steps or --comp-tokens.",
    });
  }
  const batches: SegmentBatchOptions = { shape, labels, seed };
  const sizes = { batch: rows, seq, slots: promptSlots(shape), labels: rows * segmentLength };
  const spec = {
    ...parameters,
    ...sizes,
    loraScale,
    averaging: false,
    ...graphOptions(flags),
  };
  return {
    pass: () => RecurrentPass.create({ config, weights, spec, bptt: flags.bptt, engine }),
    tokensOf: ({ segments }) => segments.length * rows * seq,
    openBatches: (skip) => workerBatches({ modelDirectory: model.directory, sample, batches, skip }),
    ...(held === undefined ? {} : { heldOut: () => segmentedBatches(first(held, flags.evalEpisodes), batches) }),
    labelBudget: undefined,
  };
}
