/** @file From the options of `precis train` to a training run. */
import { EpisodeSampler, type SampleOptions } from "../../data/sample.js";
import { parametersOfAdapter } from "../../train/adapter-start.js";
import { openBaseModel, weightsFor, type BaseModel } from "../../train/base-model.js";
import {
  initialParameters,
  layoutParameters,
  type ParameterLayout,
  type ParameterSpec,
} from "../../train/parameters.js";
import { resolvePrecision } from "../../train/loss-scale.js";
import type { TrainingRun } from "../../train/run-training.js";
import { saveTrainedAdapter } from "../../train/save-adapter.js";
import type { SegmentedBatch } from "../../train/segments.js";
import { isTextMode } from "../../train/text-layout.js";
import type { DistilledBatch } from "../../train/training-batch.js";
import { loadAdapter } from "../../weights/adapter.js";
import { resolveModel } from "../../weights/hub.js";
import { mixture, openHeldOut, portable } from "./data.js";
import type { TrainFlags } from "./flags.js";
import { loraTargets, methodOptions, streamShape, textRoom, trainingMode } from "./mode.js";
import { parallelPasses, recurrentPasses, type PlannedPasses } from "./passes.js";

/** Where training starts from, and the fingerprint of the adapter that it is taken from, if it is. */
async function startingValues(
  { initAdapter, seed }: TrainFlags,
  { config, fingerprint, embedding, finalNorm }: BaseModel,
  layout: ParameterLayout,
  parameters: ParameterSpec,
  loraScale: number,
): Promise<{ values: () => Float32Array; fingerprint?: string }> {
  if (initAdapter === undefined) return { values: () => initialParameters(config, layout, seed, embedding, finalNorm) };
  const adapter = await loadAdapter(initAdapter, { fingerprint, hiddenSize: config.hiddenSize });
  const values = parametersOfAdapter(adapter, config.layerCount, layout, parameters, loraScale);
  return { values: () => values, fingerprint: adapter.fingerprint };
}

/** The run that the options describe. */
export async function planRun(
  flags: TrainFlags,
  signal: AbortSignal,
): Promise<TrainingRun<DistilledBatch | SegmentedBatch>> {
  const model = await openBaseModel(await resolveModel(flags.model, { signal }));
  const training = trainingMode(flags, model);
  const { mode, memoryMethod, newTokens: compTokens, gated, rank: usualRank, recurrent } = training;
  const { rank = usualRank, alpha = 2 * rank } = flags;
  const isText = isTextMode(mode);
  const summaryGain = recurrent !== undefined;
  const parameters: ParameterSpec = { rank, targets: loraTargets(flags), compTokens, summaryGain };
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
    maxTokens: textRoom(flags, training),
    includeResearchOnly: flags.includeResearchOnly,
    only: flags.only,
    without: flags.without,
    randomLabels: flags.randomLabels,
    inventedTasks: flags.inventedTasks,
    signal,
  };
  const sampler = await EpisodeSampler.open(sample);
  const held = await openHeldOut(sample);
  const {
    device,
    threads,
    timeLimit,
    recompute,
    json,
    output,
    saveEvery,
    evalEvery,
    accumulation,
    adapterDtype,
    precision: asked,
    ...decisive
  } = flags;
  void json;
  void recompute;
  const precision = resolvePrecision(asked, device);
  const { config } = model;
  const { weights, weightsFolder } = await weightsFor(model, precision, { signal });
  const engine = { weightsFolder, device, threads };
  const parts = {
    flags,
    model,
    weights,
    mode: training,
    parameters,
    loraScale: alpha / rank,
    engine,
    sample: portable(sample),
    sampler,
    held,
  };
  const { pass, labelBudget, ...batches }: PlannedPasses<DistilledBatch | SegmentedBatch> =
    recurrent === undefined ? parallelPasses(parts) : recurrentPasses(parts, recurrent.accumulate);
  return {
    output,
    trainer: { layout, pass, optimizer: { weightDecay: flags.weightDecay, clipNorm: flags.clip }, engine, precision },
    initialParameters: start.values,
    schedule: {
      learningRate: flags.learningRate,
      steps: flags.steps,
      duration: flags.duration,
      warmupRatio: flags.warmup,
      kind: flags.schedule,
    },
    accumulation,
    ...batches,
    evalEvery,
    saveEvery,
    saveAdapter: (directory, values, trainingSummary) =>
      saveTrainedAdapter(directory, config, parameters, layout, values, {
        alpha,
        gated,
        dtype: adapterDtype === "fp16" ? "float16" : "float32",
        base: model.fingerprint,
        trainingSummary,
        ...(memoryMethod === undefined ? {} : { method: memoryMethod, methodOptions: methodOptions(flags) }),
      }),
    // Paths differ between machines; what was learned from does not.
    options: {
      ...decisive,
      // Only recurrent runs depend on it.
      segmentLength: recurrent === undefined ? undefined : flags.segmentLength,
      ...(mode.method === "streaming" ? streamShape(flags) : { release: undefined }),
      rank,
      alpha,
      labelBudget,
      accumulation,
      targets: parameters.targets,
      // Runs from before there was a choice go on as what they were.
      precision: precision === "fp32" ? undefined : precision,
      conditional: flags.conditional ? undefined : false,
      initAdapter: start.fingerprint,
      model: undefined,
      data: undefined,
      sources: sampler.sources.map(({ name }) => name),
    },
    timeLimit,
    signal,
  };
}
