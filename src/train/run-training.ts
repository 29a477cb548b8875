/** @file A training run: batches in, an adapter out; resumable at any moment, reporting as it goes. */
import { join } from "node:path";
import { PrecisError } from "../errors.js";
import { BatchReader } from "./batch-reader.js";
import type { PlannedBatch } from "./batches.js";
import { RunDirectory, type Checkpoint, type MetricsLine } from "./run-directory.js";
import { learningRateAt, progressAt, type ScheduleOptions } from "./schedule.js";
import { Trainer, type TrainerParts, type TrainerState } from "./trainer.js";

/** Everything that decides a run; `Batch` is what the gradient pass takes. */
export interface TrainingRun<Batch> {
  /** Folder of state, metrics and the adapter. */
  output: string;
  trainer: Omit<TrainerParts<Batch>, "state">;
  initialParameters: () => Float32Array;
  /** Tokens of a micro-batch, padding included, for the count of tokens. */
  tokensOf(batch: Batch): number;
  schedule: ScheduleOptions;
  /** Micro-batches of one optimiser step. */
  accumulation: number;
  /** Endless batches from the given one on; the same at every call. */
  openBatches: (skip: number) => AsyncIterable<Batch>;
  /** Held-out batches; finite, and the same at every call. */
  heldOut?: () => AsyncIterable<PlannedBatch<Batch>>;
  /** Steps between evaluations, and between saves. */
  evalEvery: number;
  saveEvery: number;
  /** Writes what was learned into a folder, with a summary of the run. */
  saveAdapter: (directory: string, parameters: Float32Array, summary: Record<string, unknown>) => Promise<void>;
  /** What a resumed run must have been started with; goes into the adapter's card. */
  options: Record<string, unknown>;
  /** Stop after this many seconds, as if killed: the state is saved and the run can be resumed. */
  timeLimit?: number;
  signal?: AbortSignal;
  onStep?: (line: MetricsLine) => void;
}

/** How a run ended. */
export interface TrainingResult {
  /** Whether all steps were taken. */
  finished: boolean;
  step: number;
  metrics: MetricsLine[];
  adapterDirectory: string;
}

/** How far a run has come, beside what the trainer knows. */
type Progress = Omit<Checkpoint, "state" | "options">;

function freshState(parameters: Float32Array): TrainerState {
  return {
    step: 0,
    parameters,
    firstMoment: new Float32Array(parameters.length),
    secondMoment: new Float32Array(parameters.length),
  };
}

/** Evaluation batches, planned once. */
async function evaluationBatches<Batch>({ heldOut }: TrainingRun<Batch>): Promise<PlannedBatch<Batch>[]> {
  const planned: PlannedBatch<Batch>[] = [];
  if (heldOut !== undefined) for await (const batch of heldOut()) planned.push(batch);
  return planned;
}

async function evaluate<Batch>(
  trainer: Trainer<Batch>,
  batches: readonly PlannedBatch<Batch>[],
): Promise<number | undefined> {
  let sum = 0;
  let labels = 0;
  for (const batch of batches) {
    const result = await trainer.evaluate(batch.build());
    sum += result.loss * result.labels;
    labels += result.labels;
  }
  return labels === 0 ? undefined : sum / labels;
}

/** Saves the state, and the adapter as it is now. */
async function save<Batch>(
  run: TrainingRun<Batch>,
  directory: RunDirectory,
  trainer: Trainer<Batch>,
  progress: Progress,
  last: MetricsLine | undefined,
): Promise<void> {
  const state = await trainer.state();
  await directory.save({ ...progress, state, options: run.options });
  await run.saveAdapter(adapterDirectory(run.output), state.parameters, {
    ...run.options,
    steps: state.step,
    tokens: progress.tokens,
    seconds: Math.round(progress.seconds),
    loss: last?.loss,
    evalLoss: last?.evalLoss,
    device: trainer.device,
  });
}

function adapterDirectory(output: string): string {
  return join(output, "adapter");
}

/** An error in place of saving numbers that cannot be trained further. */
function diverged(step: number, loss: number, gradientNorm: number): PrecisError {
  return new PrecisError("ENGINE_FAILED", `Step ${step} has loss ${loss} and gradient norm ${gradientNorm}.`, {
    nextStep: "The last saved state is kept; use a lower learning rate, full precision, or another device.",
  });
}

function isFinished<Batch>({ schedule }: TrainingRun<Batch>, step: number, seconds: number): boolean {
  return progressAt(step, seconds, schedule) >= 1;
}

/** Takes the steps that are left, or as many as time allows; `progress` and `metrics` are kept up to date. */
async function takeSteps<Batch>(
  run: TrainingRun<Batch>,
  directory: RunDirectory,
  trainer: Trainer<Batch>,
  batches: BatchReader<Batch>,
  progress: Progress,
  metrics: MetricsLine[],
): Promise<void> {
  const held = await evaluationBatches(run);
  const startedAt = Date.now();
  const before = { ...progress };
  const elapsed = (): number => (Date.now() - startedAt) / 1000;
  const stopped = (): boolean =>
    run.signal?.aborted === true || (run.timeLimit !== undefined && elapsed() >= run.timeLimit);
  while (!isFinished(run, trainer.step, progress.seconds) && !stopped()) {
    const learningRate = learningRateAt(trainer.step, run.schedule, progress.seconds);
    const micro: Batch[] = [];
    for (let i = 0; i < run.accumulation; i++) micro.push(await batches.next());
    if (!isFinished(run, trainer.step + 1, progress.seconds)) batches.readAhead();
    const { loss, gradientNorm, ...rest } = await trainer.takeStep(micro, learningRate, () => batches.arrived);
    const learned = rest.skipped !== true;
    if (!Number.isFinite(loss) || (learned && !Number.isFinite(gradientNorm))) {
      throw diverged(trainer.step, loss, gradientNorm);
    }
    progress.batches += run.accumulation;
    progress.tokens += micro.reduce((sum, batch) => sum + run.tokensOf(batch), 0);
    progress.seconds = before.seconds + elapsed();
    const line: MetricsLine = {
      step: trainer.step,
      loss,
      ...rest,
      ...(learned ? { gradientNorm } : {}),
      learningRate,
      tokens: progress.tokens,
      seconds: progress.seconds,
      tokensPerSecond: (progress.tokens - before.tokens) / elapsed(),
    };
    const last = isFinished(run, trainer.step, progress.seconds);
    if (trainer.step % run.evalEvery === 0 || last) line.evalLoss = await evaluate(trainer, held);
    metrics.push(line);
    await directory.log(line);
    run.onStep?.(line);
    if (trainer.step % run.saveEvery === 0 && !last) await save(run, directory, trainer, progress, line);
  }
}

/**
 * Runs, or goes on with, a training run until its last step, its time limit or an abort; the state is saved in each case.
 * @throws OPTION_INVALID if the folder holds a run with other options; INPUT_INVALID if the data ends; ENGINE_FAILED if
 *   the loss is not a number
 */
export async function runTraining<Batch>(run: TrainingRun<Batch>): Promise<TrainingResult> {
  const directory = new RunDirectory(run.output);
  await directory.create();
  const resumed = await directory.resume(run.options);
  const state = resumed?.state ?? freshState(run.initialParameters());
  const metrics = await directory.metricsUpTo(state.step);
  await using trainer = await Trainer.create({ ...run.trainer, state });
  const progress: Progress = {
    batches: resumed?.batches ?? 0,
    tokens: resumed?.tokens ?? 0,
    seconds: resumed?.seconds ?? 0,
  };
  {
    // Ends the thread that makes them, also after an error.
    await using batches = new BatchReader(run.openBatches(progress.batches));
    await takeSteps(run, directory, trainer, batches, progress, metrics);
  }
  await save(run, directory, trainer, progress, metrics[metrics.length - 1]);
  return {
    finished: isFinished(run, trainer.step, progress.seconds),
    step: trainer.step,
    metrics,
    adapterDirectory: adapterDirectory(run.output),
  };
}
