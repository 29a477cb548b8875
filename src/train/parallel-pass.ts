/** @file Loss and gradient by the parallel forward: every time step of a sample in one sequence, one graph run per batch. */
import type { Tensor } from "onnxruntime-node";
import type { DecoderConfig } from "../models/config.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions } from "../runtime/engine-session.js";
import type { BackwardInputs, BackwardResult, GradientPass, PassLoss } from "./gradient-pass.js";
import type { PaddedBatch } from "./parallel-layout.js";
import { layoutParameters, type ParameterLayout } from "./parameters.js";
import { batchLabels, trainingFeeds } from "./training-batch.js";
import { buildTrainingGraph, TRAINING_IO, type TrainingGraphSpec } from "./training-graph.js";

/** What a parallel pass is made of. */
export interface ParallelPassParts {
  config: DecoderConfig;
  weights: () => DecoderWeights;
  spec: TrainingGraphSpec;
  engine: EngineOptions;
}

/** The parallel forward and backward of CCM (arXiv 2312.03414, section 3.2), for batches of one fixed size. */
export class ParallelPass implements GradientPass<PaddedBatch> {
  readonly device: Device;
  readonly #parts: ParallelPassParts;
  readonly #layout: ParameterLayout;
  readonly #session: EngineSession;

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

  async backward(batch: PaddedBatch, { parameters, accumulated }: BackwardInputs): Promise<BackwardResult> {
    const { config, spec } = this.#parts;
    const labels = batchLabels(batch);
    const feeds = trainingFeeds(config, batch, spec, labels);
    feeds[TRAINING_IO.parameters] = parameters;
    feeds[TRAINING_IO.accumulated] = accumulated;
    const outputs = await this.#session.run(feeds, [TRAINING_IO.loss, TRAINING_IO.gradient]);
    const loss = Number(outputs[TRAINING_IO.loss]?.data[0]);
    return { loss, labels: labels.rows.length, gradient: outputs[TRAINING_IO.gradient] as Tensor };
  }

  async evaluate(batch: PaddedBatch, parameters: Tensor): Promise<PassLoss> {
    const { size } = this.#layout;
    const accumulated = floatTensor(new Float32Array(size), [size]);
    const { loss, labels, gradient } = await this.backward(batch, { parameters, accumulated, draw: 0 });
    gradient.dispose();
    return { loss, labels };
  }

  dispose(): Promise<void> {
    return this.#session.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
