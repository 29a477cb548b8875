/**
 * @file Loss and gradient of recurrent summaries by back-propagation through time: forward over the steps, keeping the
 * soft prompts, then backward over the segments, each run being given the gradient by the soft prompt it made.
 */
import type { Tensor } from "onnxruntime-node";
import type { DecoderConfig } from "../models/config.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import type { Device } from "../runtime/device.js";
import { EngineSession, floatTensor, type EngineOptions, type Feeds } from "../runtime/engine-session.js";
import type { BackwardInputs, GradientPass, GradientSums, LossName, PassLoss, PreparedBatch } from "./gradient-pass.js";
import { dropoutFeeds } from "./lora-dropout.js";
import { isHalf } from "./loss-scale.js";
import { OwnedTensors } from "./owned-tensors.js";
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

const BACKWARD_OUTPUTS = [TRAINING_IO.gradient, TRAINING_IO.losses, SEGMENT_IO.summaryGradient] as const;

/** Outputs that later runs read, by part. */
const DEVICE_OUTPUTS: Readonly<Record<SegmentPart, readonly string[]>> = {
  forward: [SEGMENT_IO.nextSummaries],
  evaluation: [SEGMENT_IO.nextSummaries],
  backward: BACKWARD_OUTPUTS,
  "backward-without-labels": BACKWARD_OUTPUTS,
};

/** A segment as inputs, lacking what is learned and what other segments give it. */
interface PreparedSegment {
  forward: Feeds;
  /** The part that its backward pass runs, and what that part reads besides. */
  backward: { part: TrainingPart; labels: Feeds };
}

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
  readonly losses: readonly LossName[] = ["loss"];
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

  prepare(batch: SegmentedBatch, draw: number): PreparedBatch {
    const labels = batch.segments.map(({ tokens }) => batchLabels(tokens));
    const total = labels.reduce((sum, { rows }) => sum + rows.length, 0);
    const { config, spec } = this.#parts;
    const segments = batch.segments.map((segment, turn): PreparedSegment => {
      const own = labels[turn] as BatchLabels;
      return {
        // Both directions of a segment drop the same elements, or the gradient would be that of another function.
        forward: {
          ...this.#feeds(segment),
          ...(spec.dropout && dropoutFeeds(config, spec, spec.dropout, MOST_SEGMENTS * draw + turn)),
        },
        backward:
          own.rows.length === 0
            ? { part: "backward-without-labels", labels: {} }
            : { part: "backward", labels: labelFeeds(own, spec, total) },
      };
    });
    return { labels: total, backward: (inputs) => this.#backward(segments, inputs) };
  }

  async evaluate(batch: SegmentedBatch, parameters: Tensor): Promise<PassLoss> {
    // Started when it is first needed: a run without held-out data never is.
    this.#evaluation ??= startPart(this.#parts, this.#layout, "evaluation", this.device);
    const session = await this.#evaluation;
    const labels = batch.segments.map(({ tokens }) => batchLabels(tokens));
    const total = labels.reduce((sum, { rows }) => sum + rows.length, 0);
    using owned = new OwnedTensors();
    let summaries = owned.own(this.#emptyPrompt());
    let loss = 0;
    for (const [turn, segment] of batch.segments.entries()) {
      const feeds = {
        ...this.#feeds(segment),
        [TRAINING_IO.parameters]: parameters,
        ...labelFeeds(labels[turn] as BatchLabels, this.#parts.spec, total),
        [SEGMENT_IO.summaries]: summaries,
      };
      const outputs = await session.run(feeds, [TRAINING_IO.loss, SEGMENT_IO.nextSummaries]);
      loss += Number(outputs[TRAINING_IO.loss]?.data[0]);
      owned.release(summaries);
      summaries = owned.own(outputs[SEGMENT_IO.nextSummaries] as Tensor);
    }
    return { loss, labels: total };
  }

  async dispose(): Promise<void> {
    for (const session of Object.values(this.#sessions)) await session.dispose();
    await (await this.#evaluation)?.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #backward(
    segments: readonly PreparedSegment[],
    { parameters, accumulated, lossScale = 1 }: BackwardInputs,
  ): Promise<GradientSums> {
    using owned = new OwnedTensors();
    const learned = { [TRAINING_IO.parameters]: parameters };
    const factor: Feeds = isHalf(this.#parts.spec.precision)
      ? { [TRAINING_IO.lossScale]: floatTensor(Float32Array.of(lossScale), [1]) }
      : {};
    const prompts = await this.#forward(segments, learned, owned);
    let sums = accumulated;
    let later = owned.own(this.#emptyPrompt());
    const last = segments.length - 1;
    for (let turn = last; turn >= 0; turn--) {
      const { forward, backward } = segments[turn] as PreparedSegment;
      const prompt = prompts[turn] as Tensor;
      const chain = {
        [SEGMENT_IO.summaries]: prompt,
        [SEGMENT_IO.nextGradient]: later,
        [TRAINING_IO.accumulated]: sums.gradient,
        [TRAINING_IO.accumulatedLosses]: sums.losses,
      };
      const outputs = await this.#sessions[backward.part].run(
        { ...forward, ...backward.labels, ...learned, ...factor, ...chain },
        BACKWARD_OUTPUTS,
      );
      const [gradient, losses, bySummaries] = BACKWARD_OUTPUTS.map((name) => owned.own(outputs[name] as Tensor));
      owned.release(prompt, later, sums.gradient, sums.losses);
      sums = { gradient: gradient as Tensor, losses: losses as Tensor };
      later = bySummaries as Tensor;
      if (crosses(last - turn + 1, this.#parts.bptt)) continue;
      owned.release(later);
      later = owned.own(this.#emptyPrompt());
    }
    owned.give(sums.gradient, sums.losses);
    return sums;
  }

  /** The soft prompt that each segment starts with. */
  async #forward(segments: readonly PreparedSegment[], learned: Feeds, owned: OwnedTensors): Promise<Tensor[]> {
    let prompt = owned.own(this.#emptyPrompt());
    const prompts = [prompt];
    for (const { forward } of segments.slice(0, -1)) {
      const inputs = { ...forward, ...learned, [SEGMENT_IO.summaries]: prompt };
      const outputs = await this.#sessions.forward.run(inputs, [SEGMENT_IO.nextSummaries]);
      prompt = owned.own(outputs[SEGMENT_IO.nextSummaries] as Tensor);
      prompts.push(prompt);
    }
    return prompts;
  }

  #feeds({ tokens, place, keep }: RecurrentSegment): Feeds {
    const { config, spec } = this.#parts;
    const { batch, slots, compTokens } = spec;
    return {
      ...sequenceFeeds(config, tokens, spec),
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
