/** @file Loss and gradient by the parallel forward: every time step of a sample in one sequence, one graph run per batch. */
import type { Tensor } from "onnxruntime-node";
import type { DecoderConfig } from "../models/config.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions } from "../runtime/engine-session.js";
import type { BackwardInputs, BackwardResult, GradientPass, PassLoss } from "./gradient-pass.js";
import { isHalf } from "./loss-scale.js";
import { layoutParameters, type ParameterLayout } from "./parameters.js";
import { batchLabels, forwardFeeds, trainingFeeds, type DistilledBatch } from "./training-batch.js";
import { buildEvaluationGraph, buildTrainingGraph, TRAINING_IO, type TrainingGraphSpec } from "./training-graph.js";

/** What a parallel pass is made of. */
export interface ParallelPassParts {
  config: DecoderConfig;
  weights: () => DecoderWeights;
  spec: TrainingGraphSpec;
  engine: EngineOptions;
}

/** The parallel forward and backward of CCM (arXiv 2312.03414, section 3.2), for batches of one fixed size. */
export class ParallelPass implements GradientPass<DistilledBatch> {
  readonly device: Device;
  readonly #parts: ParallelPassParts;
  readonly #layout: ParameterLayout;
  readonly #session: EngineSession;
  #evaluation: Promise<EngineSession> | undefined;

  private constructor(parts: ParallelPassParts, layout: ParameterLayout, session: EngineSession) {
    this.#parts = parts;
    this.#layout = layout;
    this.#session = session;
    this.device = session.device;
  }

  /**
   * Builds the graph and starts it.
   * @throws DEVICE_UNAVAILABLE, OUT_OF_MEMORY, ENGINE_FAILED
   */
  static async create(parts: ParallelPassParts): Promise<ParallelPass> {
    const { config, weights, spec, engine } = parts;
    const layout = layoutParameters(config, spec);
    const session = await EngineSession.create(() => buildTrainingGraph(config, weights(), layout, spec), {
      ...engine,
      fixedShapes: true,
      deviceOutputs: [TRAINING_IO.gradient],
    });
    return new ParallelPass(parts, layout, session);
  }

  async backward(
    batch: DistilledBatch,
    { parameters, accumulated, draw, lossScale = 1 }: BackwardInputs,
  ): Promise<BackwardResult> {
    const { config, spec } = this.#parts;
    const labels = batchLabels(batch);
    const feeds = trainingFeeds(config, batch, spec, labels, draw);
    feeds[TRAINING_IO.parameters] = parameters;
    feeds[TRAINING_IO.accumulated] = accumulated;
    if (isHalf(spec.precision)) feeds[TRAINING_IO.lossScale] = floatTensor(Float32Array.of(lossScale), [1]);
    const { loss, distillLoss, gradient } = TRAINING_IO;
    const outputs = await this.#session.run(feeds, [
      loss,
      gradient,
      ...(spec.distill === undefined ? [] : [distillLoss]),
    ]);
    return {
      loss: Number(outputs[loss]?.data[0]),
      labels: labels.rows.length,
      gradient: outputs[gradient] as Tensor,
      ...(spec.distill === undefined ? {} : { distillLoss: Number(outputs[distillLoss]?.data[0]) }),
    };
  }

  async evaluate(batch: DistilledBatch, parameters: Tensor): Promise<PassLoss> {
    const { config, weights, spec, engine } = this.#parts;
    // Started when it is first needed: a run without held-out data never is.
    this.#evaluation ??= EngineSession.create(() => buildEvaluationGraph(config, weights(), this.#layout, spec), {
      ...engine,
      device: this.device,
    });
    const labels = batchLabels(batch);
    const feeds = forwardFeeds(config, batch, spec, labels);
    feeds[TRAINING_IO.parameters] = parameters;
    const outputs = await (await this.#evaluation).run(feeds, [TRAINING_IO.loss]);
    return { loss: Number(outputs[TRAINING_IO.loss]?.data[0]), labels: labels.rows.length };
  }

  async dispose(): Promise<void> {
    await this.#session.dispose();
    await (await this.#evaluation)?.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
