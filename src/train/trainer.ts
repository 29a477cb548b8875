/**
 * @file Holds what is trained and takes optimiser steps. On WebGPU, everything stays on the device but a step's numbers,
 * which its last run brings back: the only time that it is waited for.
 */
import type { Tensor } from "onnxruntime-node";
import { GraphBuilder } from "../graph/builder.js";
import { expand } from "../graph/ops/movement.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions } from "../runtime/engine-session.js";
import type { GradientPass, GradientSums, LossName, PassLoss, PreparedBatch } from "./gradient-pass.js";
import { INITIAL_LOSS_SCALE, isHalf, nextLossScale, type LossScale, type Precision } from "./loss-scale.js";
import { buildOptimizerGraph, momentCorrections, OPTIMIZER_IO, type OptimizerOptions } from "./optimizer-graph.js";
import { OwnedTensors } from "./owned-tensors.js";
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

/** Means over the micro-batches of a step. */
type MeanLosses = Pick<PassLoss, LossName>;

/** Micro-batches of a step as they were run. */
interface Accumulated {
  sums: GradientSums;
  labels: number;
}

/** Inputs that were made before they were asked for, and what they are of. */
interface ReadyBatch<Batch> {
  batch: Batch;
  draw: number;
  prepared: PreparedBatch;
}

/** A training session: the optimiser and a gradient pass. Whoever creates it disposes it. */
export class Trainer<Batch> implements AsyncDisposable {
  readonly layout: ParameterLayout;
  readonly device: Device;
  readonly #options: OptimizerOptions;
  readonly #pass: GradientPass<Batch>;
  readonly #optimizer: EngineSession;
  readonly #download: EngineSession;
  /** [parameters], what the sum of a step's gradients starts from, and the session whose output it is. */
  readonly #zeros: Tensor;
  readonly #zeroMaker: EngineSession;
  #ready: ReadyBatch<Batch> | undefined;
  #step: number;
  #lossScale: LossScale | undefined;
  #vectors: [parameters: Tensor, firstMoment: Tensor, secondMoment: Tensor];

  private constructor(
    { layout, optimizer, precision, state }: TrainerParts<Batch>,
    pass: GradientPass<Batch>,
    sessions: [optimizer: EngineSession, download: EngineSession, zeroMaker: EngineSession],
    zeros: Tensor,
  ) {
    this.layout = layout;
    this.#options = optimizer;
    this.#pass = pass;
    [this.#optimizer, this.#download, this.#zeroMaker] = sessions;
    this.#zeros = zeros;
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
    const update = await EngineSession.create(() => buildOptimizerGraph(layout.size, optimizer, pass.losses.length), {
      ...sameDevice,
      deviceOutputs: VECTORS,
    });
    const download = await EngineSession.create(() => identityGraph(layout.size), sameDevice);
    // Not worth a place in a profile.
    const { profilePrefix: _prefix, ...unprofiled } = sameDevice;
    const zeroMaker = await EngineSession.create(() => zerosGraph(layout.size), {
      ...unprofiled,
      deviceOutputs: ["zeros"],
    });
    const { zeros } = await zeroMaker.run({ zero: scalar(0) }, ["zeros"]);
    return new Trainer(parts, pass, [update, download, zeroMaker], zeros as Tensor);
  }

  /** Optimiser steps taken so far. */
  get step(): number {
    return this.#step;
  }

  /**
   * One optimiser step on the mean gradient of several micro-batches. With half floats, a step whose gradient is not finite
   * counts as a step that learned nothing.
   * @param upcoming gives the first micro-batch of the next step if it is known by then; asked while the device works on
   *   this step, so that the inputs of the next one are made meanwhile. Another batch may come all the same
   */
  async takeStep(
    batches: readonly Batch[],
    learningRate: number,
    upcoming?: () => Batch | undefined,
  ): Promise<StepResult> {
    const scaling = this.#lossScale === undefined ? {} : { lossScale: this.#lossScale.factor };
    using owned = new OwnedTensors();
    const { sums, labels } = await this.#accumulate(batches, scaling, owned);
    this.#prepareAhead(upcoming?.(), (this.#step + 1) * batches.length);
    const { losses, gradientNorm, skipped } = await this.#update(sums, learningRate, batches.length);
    const { loss, ...others } = losses;
    return { loss, gradientNorm, labels, ...others, ...scaling, ...(skipped ? { skipped } : {}) };
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
    this.#ready = undefined;
    for (const vector of [...this.#vectors, this.#zeros]) vector.dispose();
    await this.#pass[Symbol.asyncDispose]();
    for (const session of [this.#optimizer, this.#download, this.#zeroMaker]) await session.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** Runs all micro-batches forward and backward, the inputs of each made while the device works on the one before. */
  async #accumulate(
    batches: readonly Batch[],
    scaling: { lossScale?: number },
    owned: OwnedTensors,
  ): Promise<Accumulated> {
    const count = this.#pass.losses.length;
    let sums: GradientSums = {
      gradient: this.#zeros,
      losses: owned.own(floatTensor(new Float32Array(count), [count])),
    };
    let labels = 0;
    for (const [index, batch] of batches.entries()) {
      const prepared = this.#prepared(batch, this.#step * batches.length + index);
      const next = await prepared.backward({ parameters: this.#vectors[0], accumulated: sums, ...scaling });
      owned.own(next.gradient);
      owned.own(next.losses);
      owned.release(sums.gradient, sums.losses);
      sums = next;
      labels += prepared.labels;
    }
    return { sums, labels };
  }

  #prepared(batch: Batch, draw: number): PreparedBatch {
    const ready = this.#ready;
    this.#ready = undefined;
    return ready?.batch === batch && ready.draw === draw ? ready.prepared : this.#pass.prepare(batch, draw);
  }

  #prepareAhead(batch: Batch | undefined, draw: number): void {
    if (batch === undefined) return;
    try {
      this.#ready = { batch, draw, prepared: this.#pass.prepare(batch, draw) };
    } catch {
      // What is wrong with it concerns the step that takes it: that step tries again, and fails.
    }
  }

  /** Updates what is learned by the gradient; waits for the device. */
  async #update(
    { gradient, losses }: GradientSums,
    learningRate: number,
    count: number,
  ): Promise<{ losses: MeanLosses; gradientNorm: number; skipped: boolean }> {
    const [correction1, correction2] = momentCorrections(this.#step + 1, this.#options);
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
        [OPTIMIZER_IO.losses]: losses,
      },
      [...VECTORS, OPTIMIZER_IO.gradientNorm, OPTIMIZER_IO.sameLosses],
    );
    const gradientNorm = Number(outputs[OPTIMIZER_IO.gradientNorm]?.data[0]);
    const means = this.#meanLosses(outputs[OPTIMIZER_IO.sameLosses] as Tensor, count);
    const updated = VECTORS.map((name) => outputs[name]) as [Tensor, Tensor, Tensor];
    const skipped = this.#adaptLossScale(gradientNorm, means.loss);
    for (const vector of skipped ? updated : this.#vectors) vector.dispose();
    if (!skipped) this.#vectors = updated;
    this.#step += 1;
    return { losses: means, gradientNorm, skipped };
  }

  #meanLosses(sums: Tensor, count: number): MeanLosses {
    const mean = (name: LossName): number => Number(sums.data[this.#pass.losses.indexOf(name)]) / count;
    return {
      loss: mean("loss"),
      ...(this.#pass.losses.includes("distillLoss") ? { distillLoss: mean("distillLoss") } : {}),
    };
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
}

function scalar(value: number): Tensor {
  return floatTensor(Float32Array.of(value), [1]);
}

/** Brings a vector from the device to JavaScript. */
function identityGraph(size: number): GraphBuilder {
  const graph = new GraphBuilder("download");
  graph.output(graph.input("x", "float32", [size]), "y");
  return graph;
}

/** Makes a vector of zeros where it is needed: uploading it for every step would take longer than clearing it once. */
function zerosGraph(size: number): GraphBuilder {
  const graph = new GraphBuilder("zeros");
  graph.output(expand(graph, graph.input("zero", "float32", [1]), [size]), "zeros");
  return graph;
}
