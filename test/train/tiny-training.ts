/** @file A tiny random model set up for training, and samples for it. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { LoraTarget } from "#precis/models/decoder-io.js";
import { EngineSession, floatTensor } from "#precis/runtime/engine-session.js";
import { openBaseModel, weightsFor, type BaseModel } from "#precis/train/base-model.js";
import { isHalf } from "#precis/train/loss-scale.js";
import type { OptimizerOptions } from "#precis/train/optimizer-graph.js";
import { packLayouts } from "#precis/train/packing.js";
import { placeLayouts } from "#precis/train/padded-batch.js";
import { initialParameters, layoutParameters } from "#precis/train/parameters.js";
import { buildLayout, type ParallelLayout } from "#precis/train/parallel-layout.js";
import { compTokenIds, sumTokenIds, type ParallelMode } from "#precis/train/parallel-mode.js";
import { ParallelPass } from "#precis/train/parallel-pass.js";
import { placeTeacher } from "#precis/train/teacher-batch.js";
import { Trainer, type TrainerParts } from "#precis/train/trainer.js";
import { batchLabels, trainingFeeds, type BatchLabels, type DistilledBatch } from "#precis/train/training-batch.js";
import { buildTrainingGraph, TRAINING_IO, type TrainingGraphSpec } from "#precis/train/training-graph.js";
import { writeRandomModel, type RandomModelOptions } from "../reference/random-model.js";
import { normalGenerator } from "../reference/random-tensors.js";

/** Ids of the random model's tokens. */
export const IDS = { vocabSize: 320, padId: 0, bosId: 1 };
const TARGETS: readonly LoraTarget[] = ["q", "k", "v", "o"].map((name): LoraTarget => `self_attn.${name}_proj`);

/** Every way to compress, as the parallel forward knows it. */
export const MODES: Readonly<Record<string, ParallelMode>> = {
  "concat, recursive": { ...IDS, method: "concat", recursive: true, compTokens: 2, sink: false },
  "concat, each step alone": { ...IDS, method: "concat", recursive: false, compTokens: 2, sink: false },
  "concat, sink": { ...IDS, method: "concat", recursive: true, compTokens: 2, sink: true },
  "merge, recursive": { ...IDS, method: "merge", recursive: true, compTokens: 2, sink: false },
  "merge, each step alone": { ...IDS, method: "merge", recursive: false, compTokens: 2, sink: false },
  "merge, moving average and sink": { ...IDS, method: "merge", recursive: true, compTokens: 2, sink: true, decay: 0.3 },
  gist: { ...IDS, method: "gist", compTokens: 2, sink: false },
  "compressive, recursive": { ...IDS, method: "compressive", recursive: true, compTokens: 2, sink: false },
  "compressive, each step alone": { ...IDS, method: "compressive", recursive: false, compTokens: 2, sink: false },
  "compressive, sink": { ...IDS, method: "compressive", recursive: true, compTokens: 2, sink: true },
  full: { ...IDS, method: "full" },
};

/** Sizes and parameters for a mode, and for batches of `rows` × `seq`. */
export function specFor(mode: ParallelMode, rows: number, seq: number, recompute = false): TrainingGraphSpec {
  const compTokens = compTokenIds(mode).length;
  const sizes = { batch: rows, seq, labels: rows * seq };
  return {
    rank: 4,
    targets: TARGETS,
    compTokens,
    ...sizes,
    loraScale: 2,
    averaging: sumTokenIds(mode).length > 0,
    recompute,
  };
}

/** Loss and gradient of one batch. */
export interface Pass {
  loss: number;
  /** NaN without distillation. */
  distillLoss: number;
  gradient: Float32Array;
}

/** A model folder opened for training; removed on disposal. */
export interface TinyTraining extends AsyncDisposable {
  base: BaseModel;
  scratch: string;
  /** Starting values, with noise added so that nothing is zero. */
  parameters: (spec: TrainingGraphSpec, seed?: number) => Float32Array;
  /** What a trainer needs; starts from {@link parameters}. */
  parts: (spec: TrainingGraphSpec, optimizer?: OptimizerOptions) => TrainerParts<DistilledBatch>;
  trainer: (spec: TrainingGraphSpec, optimizer?: OptimizerOptions) => Promise<Trainer<DistilledBatch>>;
  /** A graph ready to run, and the function that runs it. */
  passes: (spec: TrainingGraphSpec) => Promise<{
    /** @param values the trained vector; default {@link parameters} */
    run: (batch: DistilledBatch, labels?: BatchLabels, values?: Float32Array, lossScale?: number) => Promise<Pass>;
    dispose: () => Promise<void>;
  }>;
}

/** Writes and opens a random model. */
export async function tinyTraining(options: RandomModelOptions = {}): Promise<TinyTraining> {
  const scratch = mkdtempSync(join(tmpdir(), "precis-train-"));
  const sizes: RandomModelOptions = { hiddenSize: 32, layers: 2, queryHeads: 4, kvHeads: 2, seed: 5, tiedHead: true };
  const { directory } = writeRandomModel(join(scratch, "model"), { ...sizes, ...options });
  return openTraining(directory, scratch);
}

/** Opens a model folder for training; `scratch` is removed on disposal. */
export async function openTraining(directory: string, scratch: string): Promise<TinyTraining> {
  const base = await openBaseModel(directory);
  const { config, weightsFolder } = base;
  const placed = ({ precision = "fp32" }: TrainingGraphSpec) => weightsFor(base, precision, { cacheDir: scratch });
  const parameters = (spec: TrainingGraphSpec, seed = 3): Float32Array => {
    const normal = normalGenerator(seed);
    const values = initialParameters(config, layoutParameters(config, spec), seed, base.embedding);
    return values.map((value) => value + 0.2 * normal());
  };
  const parts = (spec: TrainingGraphSpec, optimizer: OptimizerOptions = {}): TrainerParts<DistilledBatch> => {
    const values = parameters(spec);
    const zeros = (): Float32Array => new Float32Array(values.length);
    const state = { step: 0, parameters: values, firstMoment: zeros(), secondMoment: zeros() };
    const engine = { weightsFolder, device: "cpu" as const, threads: 1 };
    const pass = async () => {
      const { weights, weightsFolder: folder } = await placed(spec);
      return ParallelPass.create({ config, weights, spec, engine: { ...engine, weightsFolder: folder } });
    };
    return { layout: layoutParameters(config, spec), pass, optimizer, engine, precision: spec.precision, state };
  };
  return {
    base,
    scratch,
    parameters,
    parts,
    trainer: (spec, optimizer) => Trainer.create(parts(spec, optimizer)),
    async passes(spec) {
      const layout = layoutParameters(config, spec);
      const start = parameters(spec);
      const { weights, weightsFolder: folder } = await placed(spec);
      const build = () => buildTrainingGraph(config, weights(), layout, spec);
      const session = await EngineSession.create(build, { weightsFolder: folder, device: "cpu", threads: 1 });
      return {
        async run(batch, labels = batchLabels(batch), values = start, lossScale = 1024) {
          const feeds = trainingFeeds(config, batch, spec, labels);
          feeds[TRAINING_IO.parameters] = floatTensor(values, [layout.size]);
          feeds[TRAINING_IO.accumulated] = floatTensor(new Float32Array(layout.size), [layout.size]);
          const losses = spec.distill === undefined ? 1 : 2;
          feeds[TRAINING_IO.accumulatedLosses] = floatTensor(new Float32Array(losses), [losses]);
          if (isHalf(spec.precision)) feeds[TRAINING_IO.lossScale] = floatTensor(Float32Array.of(lossScale), [1]);
          const outputs = await session.run(feeds, [TRAINING_IO.losses, TRAINING_IO.gradient]);
          const [loss, distillLoss] = outputs[TRAINING_IO.losses].data as Float32Array;
          const gradient = Float32Array.from(outputs[TRAINING_IO.gradient].data as Float32Array);
          return { loss, distillLoss: distillLoss ?? NaN, gradient };
        },
        dispose: () => session.dispose(),
      };
    },
    async [Symbol.asyncDispose]() {
      rmSync(scratch, { recursive: true });
    },
  };
}

/** A sample as tests write it: its time steps, a question and an answer. */
export interface PlainSample {
  chunks: number[][];
  input: number[];
  target: number[];
}

/** Lays a sample out with its target as labels. */
export function layoutOf({ chunks, input, target }: PlainSample, mode: ParallelMode): ParallelLayout {
  return buildLayout({ chunks, input: [...input, ...target], labels: { start: input.length } }, mode);
}

/** ‖a − b‖ / ‖b‖ */
export function relativeError(a: Float32Array, b: Float32Array): number {
  const norm = (values: Float32Array): number => Math.hypot(...values);
  return norm(a.map((value, i) => value - b[i])) / (norm(b) || 1);
}

/** Token ids that differ by `salt`; none of them special. */
function someIds(count: number, salt: number): number[] {
  return Array.from({ length: count }, (_, i) => 2 + ((salt * 53 + i * 17) % 310));
}

/** Two samples of two time steps, packed into rows, with what a teacher reads. */
export function pairBatch(mode: ParallelMode, rows: number, seq: number): DistilledBatch {
  const layouts = [0, 1].map((row) => {
    const chunks = [[1, ...someIds(4, row)], someIds(5, row + 2)];
    return layoutOf({ chunks, input: someIds(3, row + 4), target: someIds(5, row + 6) }, mode);
  });
  const { placed } = packLayouts(layouts, rows, seq);
  return { ...placeLayouts(placed, seq), teacher: placeTeacher(placed, seq) };
}

/** Cosine of the angle between two gradients; 1 between two that are 0. */
export function cosine(a: Float32Array, b: Float32Array): number {
  const dot = (x: Float32Array, y: Float32Array): number => x.reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0);
  const lengths = Math.sqrt(dot(a, a) * dot(b, b));
  return lengths === 0 ? 1 : dot(a, b) / lengths;
}
