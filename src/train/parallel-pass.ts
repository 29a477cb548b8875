/** @file Loss and gradient by the parallel forward: every time step of a sample in one sequence, one graph run per batch. */
import type { Tensor } from "onnxruntime-node";
import type { GraphBuilder } from "../graph/builder.js";
import type { DecoderConfig } from "../models/config.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions, type Feeds } from "../runtime/engine-session.js";
import { blockCount } from "./causal-blocks.js";
import type { BackwardInputs, GradientPass, GradientSums, LossName, PassLoss, PreparedBatch } from "./gradient-pass.js";
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

const SUMS = [TRAINING_IO.gradient, TRAINING_IO.losses] as const;

/** The parallel forward and backward of CCM (arXiv 2312.03414, section 3.2), for batches of one fixed size. */
export class ParallelPass implements GradientPass<DistilledBatch> {
  readonly device: Device;
  readonly losses: readonly LossName[];
  readonly #parts: ParallelPassParts;
  readonly #layout: ParameterLayout;
  readonly #session: EngineSession;
  #evaluation: Promise<EngineSession> | undefined;

  private constructor(parts: ParallelPassParts, layout: ParameterLayout, session: EngineSession) {
    this.#parts = parts;
    this.#layout = layout;
    this.#session = session;
    this.device = session.device;
    this.losses = parts.spec.distill === undefined ? ["loss"] : ["loss", "distillLoss"];
  }

  /**
   * Builds the graph and starts it.
   * @throws DEVICE_UNAVAILABLE, OUT_OF_MEMORY, ENGINE_FAILED
   */
  static async create(parts: ParallelPassParts): Promise<ParallelPass> {
    const { config, weights, spec, engine } = parts;
    const layout = layoutParameters(config, spec);
    const build = (device: Device): GraphBuilder => {
      const attentionBlocks = spec.attentionBlocks ?? blockCount(spec.seq, device);
      return buildTrainingGraph(config, weights(), layout, { ...spec, attentionBlocks });
    };
    const session = await EngineSession.create(build, { ...engine, fixedShapes: true, deviceOutputs: SUMS });
    return new ParallelPass(parts, layout, session);
  }

  prepare(batch: DistilledBatch, draw: number): PreparedBatch {
    const { config, spec } = this.#parts;
    const labels = batchLabels(batch);
    const feeds = trainingFeeds(config, batch, spec, labels, draw);
    return { labels: labels.rows.length, backward: (inputs) => this.#backward(feeds, inputs) };
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

  async #backward(feeds: Feeds, { parameters, accumulated, lossScale = 1 }: BackwardInputs): Promise<GradientSums> {
    const inputs: Feeds = {
      ...feeds,
      [TRAINING_IO.parameters]: parameters,
      [TRAINING_IO.accumulated]: accumulated.gradient,
      [TRAINING_IO.accumulatedLosses]: accumulated.losses,
    };
    if (isHalf(this.#parts.spec.precision)) {
      inputs[TRAINING_IO.lossScale] = floatTensor(Float32Array.of(lossScale), [1]);
    }
    const outputs = await this.#session.run(inputs, SUMS);
    return { gradient: outputs[TRAINING_IO.gradient] as Tensor, losses: outputs[TRAINING_IO.losses] as Tensor };
  }
}
