/** @file Holds what is trained and takes optimiser steps. On WebGPU, everything but losses stays on the device. */
import type { Tensor } from "onnxruntime-node";
import { GraphBuilder } from "../graph/builder.js";
import type { DecoderConfig } from "../models/config.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions } from "../runtime/engine-session.js";
import { buildOptimizerGraph, momentCorrections, OPTIMIZER_IO, type OptimizerOptions } from "./optimizer-graph.js";
import type { PaddedBatch } from "./parallel-layout.js";
import { layoutParameters, type ParameterLayout } from "./parameters.js";
import { batchLabels, trainingFeeds } from "./training-batch.js";
import { buildTrainingGraph, TRAINING_IO, type TrainingGraphSpec } from "./training-graph.js";

/** Everything that a run has learned, as flat vectors [parameters]. */
export interface TrainerState {
  /** Optimiser steps taken. */
  step: number;
  parameters: Float32Array;
  firstMoment: Float32Array;
  secondMoment: Float32Array;
}

/** What a trainer is made of. */
export interface TrainerParts {
  config: DecoderConfig;
  weights: () => DecoderWeights;
  spec: TrainingGraphSpec;
  optimizer: OptimizerOptions;
  engine: EngineOptions;
  state: TrainerState;
}

/** What one optimiser step did. */
export interface StepResult {
  /** Mean negative log-likelihood of the labels, in nats. */
  loss: number;
  /** Global norm of the gradient before clipping. */
  gradientNorm: number;
  labels: number;
}

const VECTORS = [OPTIMIZER_IO.newParameters, OPTIMIZER_IO.newFirstMoment, OPTIMIZER_IO.newSecondMoment] as const;

/** A training session. Whoever creates it disposes it. */
export class Trainer implements AsyncDisposable {
  readonly layout: ParameterLayout;
  readonly device: Device;
  readonly #parts: TrainerParts;
  readonly #model: EngineSession;
  readonly #optimizer: EngineSession;
  readonly #download: EngineSession;
  #step: number;
  #vectors: [parameters: Tensor, firstMoment: Tensor, secondMoment: Tensor];

  private constructor(
    parts: TrainerParts,
    layout: ParameterLayout,
    sessions: [EngineSession, EngineSession, EngineSession],
  ) {
    this.#parts = parts;
    this.layout = layout;
    [this.#model, this.#optimizer, this.#download] = sessions;
    this.device = this.#model.device;
    const { state } = parts;
    this.#step = state.step;
    const tensor = (values: Float32Array): Tensor => floatTensor(values, [layout.size]);
    this.#vectors = [tensor(state.parameters), tensor(state.firstMoment), tensor(state.secondMoment)];
  }

  /** Builds the graphs and starts them. */
  static async create(parts: TrainerParts): Promise<Trainer> {
    const { config, weights, spec, optimizer, engine } = parts;
    const layout = layoutParameters(config, spec);
    const model = await EngineSession.create(() => buildTrainingGraph(config, weights(), layout, spec), {
      ...engine,
      deviceOutputs: [TRAINING_IO.gradient],
    });
    // The optimiser must find the gradients where the model left them.
    const sameDevice = { ...engine, device: model.device };
    const update = await EngineSession.create(() => buildOptimizerGraph(layout.size, optimizer), {
      ...sameDevice,
      deviceOutputs: VECTORS,
    });
    const download = await EngineSession.create(() => identityGraph(layout.size), sameDevice);
    return new Trainer(parts, layout, [model, update, download]);
  }

  /** Optimiser steps taken so far. */
  get step(): number {
    return this.#step;
  }

  /** Loss and, on the device, gradient of one batch; `accumulated` is added to the gradient. */
  async #backward(
    batch: PaddedBatch,
    accumulated: Tensor,
  ): Promise<{ loss: number; labels: number; gradient: Tensor }> {
    const { config, spec } = this.#parts;
    const labels = batchLabels(batch);
    const feeds = trainingFeeds(config, batch, spec, labels);
    feeds[TRAINING_IO.parameters] = this.#vectors[0];
    feeds[TRAINING_IO.accumulated] = accumulated;
    const outputs = await this.#model.run(feeds, [TRAINING_IO.loss, TRAINING_IO.gradient]);
    const loss = Number(outputs[TRAINING_IO.loss]?.data[0]);
    return { loss, labels: labels.rows.length, gradient: outputs[TRAINING_IO.gradient] as Tensor };
  }

  /** One optimiser step on the mean gradient of several micro-batches. */
  async takeStep(batches: readonly PaddedBatch[], learningRate: number): Promise<StepResult> {
    let gradient = this.#zeros();
    let loss = 0;
    let labels = 0;
    for (const batch of batches) {
      const pass = await this.#backward(batch, gradient);
      gradient.dispose();
      gradient = pass.gradient;
      loss += pass.loss / batches.length;
      labels += pass.labels;
    }
    const gradientNorm = await this.#update(gradient, learningRate, batches.length);
    gradient.dispose();
    return { loss, gradientNorm, labels };
  }

  /** Mean negative log-likelihood of a batch's labels, without learning from it. */
  async evaluate(batch: PaddedBatch): Promise<{ loss: number; labels: number }> {
    const { loss, labels, gradient } = await this.#backward(batch, this.#zeros());
    gradient.dispose();
    return { loss, labels };
  }

  /** A copy of everything learned. */
  async state(): Promise<TrainerState> {
    const copy = async (vector: Tensor): Promise<Float32Array> => {
      const outputs = await this.#download.run({ x: vector }, ["y"]);
      return Float32Array.from(outputs["y"]?.data as Float32Array);
    };
    const [parameters, firstMoment, secondMoment] = this.#vectors;
    return {
      step: this.#step,
      parameters: await copy(parameters),
      firstMoment: await copy(firstMoment),
      secondMoment: await copy(secondMoment),
    };
  }

  async dispose(): Promise<void> {
    for (const vector of this.#vectors) vector.dispose();
    for (const session of [this.#model, this.#optimizer, this.#download]) await session.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #update(gradient: Tensor, learningRate: number, count: number): Promise<number> {
    const [correction1, correction2] = momentCorrections(this.#step + 1, this.#parts.optimizer);
    const scalar = (value: number): Tensor => floatTensor(Float32Array.from([value]), [1]);
    const outputs = await this.#optimizer.run(
      {
        [OPTIMIZER_IO.parameters]: this.#vectors[0],
        [OPTIMIZER_IO.firstMoment]: this.#vectors[1],
        [OPTIMIZER_IO.secondMoment]: this.#vectors[2],
        [OPTIMIZER_IO.gradient]: gradient,
        [OPTIMIZER_IO.gradientScale]: scalar(1 / count),
        [OPTIMIZER_IO.learningRate]: scalar(learningRate),
        [OPTIMIZER_IO.correction1]: scalar(correction1),
        [OPTIMIZER_IO.correction2]: scalar(correction2),
      },
      [...VECTORS, OPTIMIZER_IO.gradientNorm],
    );
    for (const vector of this.#vectors) vector.dispose();
    this.#vectors = VECTORS.map((name) => outputs[name]) as [Tensor, Tensor, Tensor];
    this.#step += 1;
    return Number(outputs[OPTIMIZER_IO.gradientNorm]?.data[0]);
  }

  #zeros(): Tensor {
    return floatTensor(new Float32Array(this.layout.size), [this.layout.size]);
  }
}

/** Brings a vector from the device to JavaScript. */
function identityGraph(size: number): GraphBuilder {
  const graph = new GraphBuilder("download");
  graph.output(graph.input("x", "float32", [size]), "y");
  return graph;
}
