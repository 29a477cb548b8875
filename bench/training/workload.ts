/** @file The training step that is measured: the library's trainer on batches of random tokens. */
import type { Episode } from "../../dist/data/episode.js";
import type { LoraTarget } from "../../dist/models/decoder-io.js";
import type { Device } from "../../dist/runtime/device.js";
import type { LabelScope } from "../../dist/train/batches.js";
import type { Precision } from "../../dist/train/loss-scale.js";
import type { PaddedBatch } from "../../dist/train/padded-batch.js";
import type { ParallelMode } from "../../dist/train/parallel-mode.js";
import type { Trainer } from "../../dist/train/trainer.js";
import type { TrainingGraphSpec } from "../../dist/train/training-graph.js";
import { xorshift } from "../weights/random.js";
import { importTraining } from "./library.js";

/** What is trained, and on how much. */
export interface WorkloadOptions {
  /** Folder of the frozen model. */
  model: string;
  device: Device | "auto";
  threads?: number;
  rows: number;
  rowLength: number;
  labels: LabelScope;
  compTokens: number;
  rank: number;
  recompute: boolean;
  precision: Precision;
  /** See `EngineOptions`. */
  profilePrefix?: string;
}

/** A trainer, and batches to train it on in turn. */
export interface Workload {
  trainer: Trainer<PaddedBatch>;
  batches: PaddedBatch[];
  /** Labels of the first batch. */
  labels: number;
  /** Trained numbers. */
  parameters: number;
}

/** Text tokens of a time step, and of the answer; near the means of the paper's conversations. */
const STEP_TOKENS = 44;
const ANSWER_TOKENS = 20;

/** Different batches, so that no step sees the data of the one before. */
const BATCHES = 4;

const TARGETS: readonly LoraTarget[] = ["q", "k", "v", "o"].map((name): LoraTarget => `self_attn.${name}_proj`);

/** An episode that, with its COMP tokens, fills a row: as many whole time steps as fit, then a question and an answer. */
function fillingEpisode(options: WorkloadOptions, token: () => number, id: string): Episode {
  const { rowLength, compTokens } = options;
  const tokens = (count: number): number[] => Array.from({ length: count }, token);
  const stepLength = STEP_TOKENS + compTokens;
  const steps = Math.max(1, Math.floor((rowLength - ANSWER_TOKENS) / stepLength) - 1);
  const question = rowLength - ANSWER_TOKENS - steps * stepLength;
  if (question < 1) throw new Error(`A row of ${rowLength} tokens is too short; use at least ${stepLength + 64}.`);
  return {
    id,
    source: "random",
    setting: "conversation",
    steps: Array.from({ length: steps }, () => tokens(STEP_TOKENS)),
    input: tokens(question),
    target: tokens(ANSWER_TOKENS),
  };
}

/** Sizes and scope of the step's graph. */
export function trainingSpec(options: WorkloadOptions): TrainingGraphSpec {
  const { rows, rowLength, compTokens, rank, recompute, precision } = options;
  return {
    rank,
    targets: TARGETS,
    compTokens,
    batch: rows,
    seq: rowLength,
    // All places, or as many as the answers take: what `precis train` reserves.
    labels: options.labels === "all" ? rows * rowLength : rows * ANSWER_TOKENS,
    loraScale: 1,
    averaging: false,
    recompute,
    precision,
  };
}

/** Starts the trainer of a ccm-concat adapter, set up as `precis train` does. */
export async function prepareWorkload(options: WorkloadOptions): Promise<Workload> {
  const library = await importTraining();
  const { model, device, threads, rows, rowLength, compTokens, precision, profilePrefix } = options;
  const base = await library.openBaseModel(model);
  const { config } = base;
  const { weights, weightsFolder } = await library.weightsFor(base, precision);
  const ids = { vocabSize: config.vocabSize, padId: 0, bosId: 1 };
  const mode: ParallelMode = { ...ids, method: "concat", recursive: true, compTokens, sink: false };
  const random = xorshift(20260801);
  // Ids from 3 on: no special tokens.
  const token = (): number => 3 + (random() % (config.vocabSize - 3));
  const rowOf = (row: number) =>
    library.layoutEpisode(fillingEpisode(options, token, `row ${row}`), mode, options.labels);
  const batchOf = (batch: number): PaddedBatch =>
    library.padLayouts(
      Array.from({ length: rows }, (_, row) => rowOf(batch * rows + row)),
      { length: rowLength },
    );
  const batches = Array.from({ length: BATCHES }, (_, batch) => batchOf(batch));
  const spec = trainingSpec(options);
  const layout = library.layoutParameters(config, spec);
  const engine = { weightsFolder, device, threads, profilePrefix };
  const zeros = (): Float32Array => new Float32Array(layout.size);
  const trainer = await library.Trainer.create({
    layout,
    pass: () => library.ParallelPass.create({ config, weights, spec, engine }),
    optimizer: {},
    engine,
    precision,
    state: {
      step: 0,
      parameters: library.initialParameters(config, layout, 1, base.embedding),
      firstMoment: zeros(),
      secondMoment: zeros(),
    },
  });
  const labels = batches[0]?.labels.filter((label) => label >= 0).length ?? 0;
  return { trainer, batches, labels, parameters: layout.size };
}
