/** @file From the options of `precis train` to a training run. */
import { EpisodeSampler, type SampleOptions } from "../../data/sample.js";
import { openBaseModel, type BaseModel } from "../../train/base-model.js";
import { workerBatches } from "../../train/batch-thread.js";
import { layoutEpisode, packedBatches, type BatchOptions } from "../../train/batches.js";
import { isTextMode } from "../../train/text-layout.js";
import { estimateLabelBudget, type LabelBudget } from "../../train/packing.js";
import { ParallelPass } from "../../train/parallel-pass.js";
import { sumTokenIds } from "../../train/parallel-layout.js";
import type { DistilledBatch } from "../../train/training-batch.js";
import { parametersOfAdapter } from "../../train/adapter-start.js";
import {
  initialParameters,
  layoutParameters,
  type ParameterLayout,
  type ParameterSpec,
} from "../../train/parameters.js";
import type { TrainingRun } from "../../train/run-training.js";
import { saveTrainedAdapter } from "../../train/save-adapter.js";
import { loadAdapter } from "../../weights/adapter.js";
import { resolveModel } from "../../weights/hub.js";
import { first, mixture, openHeldOut, portable } from "./data.js";
import type { TrainFlags } from "./flags.js";
import { loraTargets, methodOptions, textRoom, trainingMode } from "./mode.js";

/** Samples that an automatic label budget is estimated from. */
const SAMPLES_FOR_BUDGET = 256;

/** The labels of a micro-batch: as asked, or all places when all text is labelled, or what answers rarely exceed. */
function labelBudget(flags: TrainFlags, batches: BatchOptions, sampler: EpisodeSampler): LabelBudget {
  const { rows, rowLength, seed } = flags;
  const { labels } = batches;
  const capacity = rows * rowLength;
  const surplus = labels === "all" ? "drop" : "close";
  if (flags.labelBudget !== undefined) return { most: Math.min(flags.labelBudget, capacity), surplus, seed };
  if (labels === "all") return { most: capacity, surplus, seed };
  const layouts = Array.from({ length: SAMPLES_FOR_BUDGET }, (_, index) =>
    layoutEpisode(sampler.at(index), batches.mode, labels),
  );
  return { most: estimateLabelBudget(layouts, rows, rowLength), surplus, seed };
}

/** Where training starts from, and the fingerprint of the adapter that it is taken from, if it is. */
async function startingValues(
  { initAdapter, seed }: TrainFlags,
  { config, fingerprint, embedding }: BaseModel,
  layout: ParameterLayout,
  parameters: ParameterSpec,
  loraScale: number,
): Promise<{ values: () => Float32Array; fingerprint?: string }> {
  if (initAdapter === undefined) return { values: () => initialParameters(config, layout, seed, embedding) };
  const adapter = await loadAdapter(initAdapter, { fingerprint, hiddenSize: config.hiddenSize });
  const values = parametersOfAdapter(adapter, config.layerCount, layout, parameters, loraScale);
  return { values: () => values, fingerprint: adapter.fingerprint };
}

/** The run that the options describe. */
export async function planRun(flags: TrainFlags, signal: AbortSignal): Promise<TrainingRun<DistilledBatch>> {
  const model = await openBaseModel(await resolveModel(flags.model, { signal }));
  const { mode, memoryMethod, newTokens: compTokens, gated, rank: usualRank } = trainingMode(flags, model);
  const { rank = usualRank, alpha = 2 * rank } = flags;
  const isText = isTextMode(mode);
  const parameters = { rank, targets: loraTargets(flags), compTokens };
  const layout = layoutParameters(model.config, parameters);
  const start = await startingValues(flags, model, layout, parameters, alpha / rank);
  const sample: SampleOptions = {
    dataDir: flags.data,
    tokenizer: model.tokenizer,
    template: model.template,
    weights: isText ? { stream: 1 } : mixture(flags.mix),
    blockTokens: isText ? mode.blockTokens : undefined,
    seed: flags.seed,
    maxSteps: flags.maxSteps,
    maxTokens: textRoom(flags, mode),
    includeResearchOnly: flags.includeResearchOnly,
    only: flags.only,
    signal,
  };
  const sampler = await EpisodeSampler.open(sample);
  const shape = {
    mode,
    rows: flags.rows,
    rowLength: flags.rowLength,
    labels: isText ? ("all" as const) : flags.labels,
  };
  const budget = labelBudget(flags, shape, sampler);
  const batches: BatchOptions = { ...shape, labelBudget: budget, teacher: flags.distill > 0 };
  // Held-out data are measured whole, however many labels they have.
  const heldOut: BatchOptions = { ...shape, labelBudget: { ...budget, surplus: "close" } };
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
    labels: budget.most,
    loraScale: alpha / rank,
    averaging: !isTextMode(mode) && sumTokenIds(mode).length > 0,
    recompute,
    ...(flags.loraDropout > 0 ? { dropout: { rate: flags.loraDropout, seed: flags.seed } } : {}),
    ...(flags.distill > 0 ? { distill: { weight: flags.distill, temperature: flags.distillTemperature } } : {}),
  };
  return {
    output,
    trainer: {
      layout,
      pass: () => ParallelPass.create({ config, weights, spec, engine }),
      optimizer: { weightDecay: flags.weightDecay, clipNorm: flags.clip },
      engine,
    },
    initialParameters: start.values,
    tokensPerBatch: flags.rows * flags.rowLength,
    schedule: { learningRate: flags.learningRate, steps: flags.steps, warmupRatio: flags.warmup, kind: flags.schedule },
    accumulation,
    openBatches: (skip) => workerBatches({ modelDirectory: model.directory, sample: portable(sample), batches, skip }),
    heldOut: held === undefined ? undefined : () => packedBatches(first(held, flags.evalEpisodes), heldOut),
    evalEvery,
    saveEvery,
    saveAdapter: (directory, values, trainingSummary) =>
      saveTrainedAdapter(directory, config, spec, layout, values, {
        alpha,
        gated,
        base: model.fingerprint,
        trainingSummary,
        ...(memoryMethod === undefined ? {} : { method: memoryMethod, methodOptions: methodOptions(flags) }),
      }),
    // Paths differ between machines; what was learned from does not.
    options: {
      ...decisive,
      rank,
      alpha,
      labelBudget: budget.most,
      accumulation,
      targets: parameters.targets,
      initAdapter: start.fingerprint,
      model: undefined,
      data: undefined,
      sources: sampler.sources.map(({ name }) => name),
    },
    timeLimit,
    signal,
  };
}
