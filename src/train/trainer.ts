/** @file Holds what is trained and takes optimiser steps. On WebGPU, everything but losses stays on the device. */
import type { Tensor } from "onnxruntime-node";
import { GraphBuilder } from "../graph/builder.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions } from "../runtime/engine-session.js";
import type { GradientPass, PassLoss } from "./gradient-pass.js";
import { INITIAL_LOSS_SCALE, isHalf, nextLossScale, type LossScale, type Precision } from "./loss-scale.js";
import { buildOptimizerGraph, momentCorrections, OPTIMIZER_IO, type OptimizerOptions } from "./optimizer-graph.js";
import type { ParameterLayout } from "./parameters.js";

/** Everything that a run has learned, as flat vectors [parameters]. */
export interface TrainerState {
  /** Optimiser steps taken. */
  step: number;
  parameters: Float32Array;
  firstMoment: Float32Array;
  secondMoment: Float32Array;
  /** Of a run with half floats. */
  lossScale?: LossScale;
}

/** What a trainer is made of; `Batch` is what its gradient pass takes. */
export interface TrainerParts<Batch> {
  layout: ParameterLayout;
  /** Starts what makes loss and gradient of a micro-batch; the trainer disposes it. */
  pass: () => Promise<GradientPass<Batch>>;
  optimizer: OptimizerOptions;
  /** How to start the optimiser; it runs on the device of the pass. */
  engine: EngineOptions;
  /** That of the pass; default fp32. With half floats, the trainer adapts the factor on the loss. */
  precision?: Precision;
  state: TrainerState;
}

/** What one optimiser step did. */
export interface StepResult extends PassLoss {
  /** Global norm of the gradient before clipping; not finite if the step was skipped. */
  gradientNorm: number;
  /** Factor on the loss in this step, with half floats. */
  lossScale?: number;
  /** Whether the gradient left the range of half floats, so that nothing was learned but to use a smaller factor. */
  skipped?: true;
}

const VECTORS = [OPTIMIZER_IO.newParameters, OPTIMIZER_IO.newFirstMoment, OPTIMIZER_IO.newSecondMoment] as const;

/** A training session: the optimiser and a gradient pass. Whoever creates it disposes it. */
export class Trainer<Batch> implements AsyncDisposable {
  readonly layout: ParameterLayout;
  readonly device: Device;
  readonly #options: OptimizerOptions;
  readonly #pass: GradientPass<Batch>;
  readonly #optimizer: EngineSession;
  readonly #download: EngineSession;
  #step: number;
  #lossScale: LossScale | undefined;
  #vectors: [parameters: Tensor, firstMoment: Tensor, secondMoment: Tensor];

  private constructor(
    { layout, optimizer, precision, state }: TrainerParts<Batch>,
    pass: GradientPass<Batch>,
    sessions: [EngineSession, EngineSession],
  ) {
    this.layout = layout;
    this.#options = optimizer;
    this.#pass = pass;
    [this.#optimizer, this.#download] = sessions;
    this.device = pass.device;
    this.#step = state.step;
    if (isHalf(precision)) this.#lossScale = state.lossScale ?? INITIAL_LOSS_SCALE;
    const tensor = (values: Float32Array): Tensor => floatTensor(values, [layout.size]);
    this.#vectors = [tensor(state.parameters), tensor(state.firstMoment), tensor(state.secondMoment)];
  }

  /** Builds the graphs and starts them. */
  static async create<Batch>(parts: TrainerParts<Batch>): Promise<Trainer<Batch>> {
    const { layout, optimizer, engine } = parts;
    const pass = await parts.pass();
    // The optimiser must find the gradients where the pass left them.
    const sameDevice = { ...engine, device: pass.device, fixedShapes: true };
    const update = await EngineSession.create(() => buildOptimizerGraph(layout.size, optimizer), {
      ...sameDevice,
      deviceOutputs: VECTORS,
    });
    const download = await EngineSession.create(() => identityGraph(layout.size), sameDevice);
    return new Trainer(parts, pass, [update, download]);
  }

  /** Optimiser steps taken so far. */
  get step(): number {
    return this.#step;
  }

  /**
   * One optimiser step on the mean gradient of several micro-batches. With half floats, a step whose gradient is not finite
   * counts as a step that learned nothing.
   */
  async takeStep(batches: readonly Batch[], learningRate: number): Promise<StepResult> {
    let accumulated = this.#zeros();
    let loss = 0;
    let labels = 0;
    let distillLoss: number | undefined;
    const scaling = this.#lossScale === undefined ? {} : { lossScale: this.#lossScale.factor };
    for (const [index, batch] of batches.entries()) {
      const draw = this.#step * batches.length + index;
      const pass = await this.#pass.backward(batch, { parameters: this.#vectors[0], accumulated, draw, ...scaling });
      accumulated.dispose();
      accumulated = pass.gradient;
      loss += pass.loss / batches.length;
      labels += pass.labels;
      if (pass.distillLoss !== undefined) distillLoss = (distillLoss ?? 0) + pass.distillLoss / batches.length;
    }
    const { gradientNorm, skipped } = await this.#update(accumulated, learningRate, batches.length, loss);
    accumulated.dispose();
    return {
      loss,
      gradientNorm,
      labels,
      ...(distillLoss === undefined ? {} : { distillLoss }),
      ...scaling,
      ...(skipped ? { skipped } : {}),
    };
  }

  /** Mean negative log-likelihood of a batch's labels, without learning from it. */
  evaluate(batch: Batch): Promise<PassLoss> {
    return this.#pass.evaluate(batch, this.#vectors[0]);
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
      ...(this.#lossScale === undefined ? {} : { lossScale: this.#lossScale }),
    };
  }

  async dispose(): Promise<void> {
    for (const vector of this.#vectors) vector.dispose();
    await this.#pass[Symbol.asyncDispose]();
    for (const session of [this.#optimizer, this.#download]) await session.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #update(
    gradient: Tensor,
    learningRate: number,
    count: number,
    loss: number,
  ): Promise<{ gradientNorm: number; skipped: boolean }> {
    const [correction1, correction2] = momentCorrections(this.#step + 1, this.#options);
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
    const gradientNorm = Number(outputs[OPTIMIZER_IO.gradientNorm]?.data[0]);
    const updated = VECTORS.map((name) => outputs[name]) as [Tensor, Tensor, Tensor];
    const skipped = this.#adaptLossScale(gradientNorm, loss);
    for (const vector of skipped ? updated : this.#vectors) vector.dispose();
    if (!skipped) this.#vectors = updated;
    this.#step += 1;
    return { gradientNorm, skipped };
  }

  /** Takes a step into account, and tells whether to skip it. A loss that is not finite is not the factor's doing. */
  #adaptLossScale(gradientNorm: number, loss: number): boolean {
    if (this.#lossScale === undefined || !Number.isFinite(loss)) return false;
    const finite = Number.isFinite(gradientNorm);
    const next = nextLossScale(this.#lossScale, finite);
    if (next === undefined) return false;
    this.#lossScale = next;
    return !finite;
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
