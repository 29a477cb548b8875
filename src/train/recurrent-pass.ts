/**
 * @file Loss and gradient of recurrent summaries by back-propagation through time: forward over the steps, keeping the
 * soft prompts, then backward over the segments, each run being given the gradient by the soft prompt it made.
 */
import type { Tensor } from "onnxruntime-node";
import type { DecoderConfig } from "../models/config.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions, type Feeds } from "../runtime/engine-session.js";
import type { BackwardInputs, BackwardResult, GradientPass, PassLoss } from "./gradient-pass.js";
import { dropoutFeeds } from "./lora-dropout.js";
import { isHalf } from "./loss-scale.js";
import { layoutParameters, type ParameterLayout } from "./parameters.js";
import { buildSegmentGraph, SEGMENT_IO, type SegmentGraphSpec, type SegmentPart } from "./segment-graph.js";
import type { RecurrentSegment, SegmentedBatch } from "./segments.js";
import { batchLabels, labelFeeds, sequenceFeeds, type BatchLabels } from "./training-batch.js";
import { TRAINING_IO } from "./training-graph.js";

/** What a recurrent pass is made of. */
export interface RecurrentPassParts {
  config: DecoderConfig;
  weights: () => DecoderWeights;
  spec: SegmentGraphSpec;
  /**
   * Most summaries that a gradient passes back through: beyond them soft prompts count as constants. AutoCompressor uses
   * 2. Default: all of them, the exact gradient.
   */
  bptt?: number | undefined;
  engine: EngineOptions;
}

/** Gradients cross a boundary between segments unless it is the one after every `bptt` of them, counted from the end. */
export function crosses(boundary: number, bptt: number | undefined): boolean {
  return bptt === undefined || boundary % (bptt + 1) !== 0;
}

/** The parts that training runs. */
type TrainingPart = Exclude<SegmentPart, "evaluation">;

/** Outputs that later runs read, by part. */
const DEVICE_OUTPUTS: Readonly<Record<SegmentPart, readonly string[]>> = {
  forward: [SEGMENT_IO.nextSummaries],
  evaluation: [SEGMENT_IO.nextSummaries],
  backward: [TRAINING_IO.gradient, SEGMENT_IO.summaryGradient],
  "backward-without-labels": [TRAINING_IO.gradient, SEGMENT_IO.summaryGradient],
};

/** More than any sample has; keeps the random numbers of segments apart. */
const MOST_SEGMENTS = 2 ** 16;

function startPart(
  { config, weights, spec, engine }: RecurrentPassParts,
  layout: ParameterLayout,
  part: SegmentPart,
  device: EngineOptions["device"],
): Promise<EngineSession> {
  return EngineSession.create(() => buildSegmentGraph(config, weights(), layout, spec, part), {
    ...engine,
    device,
    fixedShapes: true,
    deviceOutputs: DEVICE_OUTPUTS[part],
  });
}

/** Back-propagation through time for batches of one fixed size. */
export class RecurrentPass implements GradientPass<SegmentedBatch> {
  readonly device: Device;
  readonly #parts: RecurrentPassParts;
  readonly #layout: ParameterLayout;
  readonly #sessions: Readonly<Record<TrainingPart, EngineSession>>;
  #evaluation: Promise<EngineSession> | undefined;

  private constructor(
    parts: RecurrentPassParts,
    layout: ParameterLayout,
    sessions: Readonly<Record<TrainingPart, EngineSession>>,
  ) {
    this.#parts = parts;
    this.#layout = layout;
    this.#sessions = sessions;
    this.device = sessions.forward.device;
  }

  /**
   * Builds the graphs and starts them.
   * @throws DEVICE_UNAVAILABLE, OUT_OF_MEMORY, ENGINE_FAILED
   */
  static async create(parts: RecurrentPassParts): Promise<RecurrentPass> {
    const layout = layoutParameters(parts.config, parts.spec);
    const forward = await startPart(parts, layout, "forward", parts.engine.device);
    return new RecurrentPass(parts, layout, {
      forward,
      backward: await startPart(parts, layout, "backward", forward.device),
      "backward-without-labels": await startPart(parts, layout, "backward-without-labels", forward.device),
    });
  }

  async backward(
    batch: SegmentedBatch,
    { parameters, accumulated, draw, lossScale = 1 }: BackwardInputs,
  ): Promise<BackwardResult> {
    const labels = batch.segments.map(({ tokens }) => batchLabels(tokens));
    const total = labels.reduce((sum, { rows }) => sum + rows.length, 0);
    const { config, spec } = this.#parts;
    // Both directions of a segment drop the same elements, or the gradient would be that of another function.
    const feeds = batch.segments.map((segment, turn) => ({
      ...this.#feeds(segment, parameters),
      ...(spec.dropout && dropoutFeeds(config, spec, spec.dropout, MOST_SEGMENTS * draw + turn)),
    }));
    const prompts = await this.#forward(feeds);
    let gradient = accumulated;
    let later = this.#emptyPrompt();
    let loss = 0;
    const last = batch.segments.length - 1;
    for (let turn = last; turn >= 0; turn--) {
      const pass = await this.#segment(feeds[turn] as Feeds, labels[turn] as BatchLabels, total, {
        [SEGMENT_IO.summaries]: prompts[turn] as Tensor,
        [SEGMENT_IO.nextGradient]: later,
        [TRAINING_IO.accumulated]: gradient,
        ...(isHalf(spec.precision) ? { [TRAINING_IO.lossScale]: floatTensor(Float32Array.of(lossScale), [1]) } : {}),
      });
      loss += pass.loss;
      prompts[turn]?.dispose();
      later.dispose();
      if (gradient !== accumulated) gradient.dispose();
      gradient = pass.gradient;
      const passesOn = crosses(last - turn + 1, this.#parts.bptt);
      if (!passesOn) pass.summaryGradient.dispose();
      later = passesOn ? pass.summaryGradient : this.#emptyPrompt();
    }
    later.dispose();
    return { loss, labels: total, gradient };
  }

  async evaluate(batch: SegmentedBatch, parameters: Tensor): Promise<PassLoss> {
    // Started when it is first needed: a run without held-out data never is.
    this.#evaluation ??= startPart(this.#parts, this.#layout, "evaluation", this.device);
    const session = await this.#evaluation;
    const labels = batch.segments.map(({ tokens }) => batchLabels(tokens));
    const total = labels.reduce((sum, { rows }) => sum + rows.length, 0);
    let summaries = this.#emptyPrompt();
    let loss = 0;
    for (const [turn, segment] of batch.segments.entries()) {
      const feeds = {
        ...this.#feeds(segment, parameters),
        ...labelFeeds(labels[turn] as BatchLabels, this.#parts.spec, total),
        [SEGMENT_IO.summaries]: summaries,
      };
      const outputs = await session.run(feeds, [TRAINING_IO.loss, SEGMENT_IO.nextSummaries]);
      loss += Number(outputs[TRAINING_IO.loss]?.data[0]);
      summaries.dispose();
      summaries = outputs[SEGMENT_IO.nextSummaries] as Tensor;
    }
    summaries.dispose();
    return { loss, labels: total };
  }

  async dispose(): Promise<void> {
    for (const session of Object.values(this.#sessions)) await session.dispose();
    await (await this.#evaluation)?.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** The soft prompt that each segment starts with. */
  async #forward(feeds: readonly Feeds[]): Promise<Tensor[]> {
    const prompts = [this.#emptyPrompt()];
    for (const segment of feeds.slice(0, -1)) {
      const inputs = { ...segment, [SEGMENT_IO.summaries]: prompts[prompts.length - 1] as Tensor };
      const outputs = await this.#sessions.forward.run(inputs, [SEGMENT_IO.nextSummaries]);
      prompts.push(outputs[SEGMENT_IO.nextSummaries] as Tensor);
    }
    return prompts;
  }

  async #segment(
    feeds: Feeds,
    labels: BatchLabels,
    total: number,
    chain: Feeds,
  ): Promise<{ loss: number; gradient: Tensor; summaryGradient: Tensor }> {
    const gradients = [TRAINING_IO.gradient, SEGMENT_IO.summaryGradient];
    const outputs =
      labels.rows.length === 0
        ? await this.#sessions["backward-without-labels"].run({ ...feeds, ...chain }, gradients)
        : await this.#sessions.backward.run({ ...feeds, ...chain, ...labelFeeds(labels, this.#parts.spec, total) }, [
            TRAINING_IO.loss,
            ...gradients,
          ]);
    return {
      loss: Number(outputs[TRAINING_IO.loss]?.data[0] ?? 0),
      gradient: outputs[TRAINING_IO.gradient] as Tensor,
      summaryGradient: outputs[SEGMENT_IO.summaryGradient] as Tensor,
    };
  }

  #feeds({ tokens, place, keep }: RecurrentSegment, parameters: Tensor): Feeds {
    const { config, spec } = this.#parts;
    const { batch, slots, compTokens } = spec;
    return {
      ...sequenceFeeds(config, tokens, spec),
      [TRAINING_IO.parameters]: parameters,
      [SEGMENT_IO.place]: floatTensor(place, [batch, slots, compTokens]),
      [SEGMENT_IO.keep]: floatTensor(keep, [batch, slots, 1]),
    };
  }

  #emptyPrompt(): Tensor {
    const { batch, slots } = this.#parts.spec;
    const dims = [batch, slots, this.#parts.config.hiddenSize];
    return floatTensor(new Float32Array(batch * slots * this.#parts.config.hiddenSize), dims);
  }
}
