/**
 * @file One training step as a graph: the parallel forward, the cross entropy of the labels, and the gradients of the
 * trained vector. Sizes are fixed when it is built.
 */
import { differentiate } from "../graph/autodiff.js";
import { GraphBuilder, type Value } from "../graph/builder.js";
import { add, cast, div, mul, scale } from "../graph/ops/elementwise.js";
import { matmul } from "../graph/ops/linalg.js";
import { concat, reshape } from "../graph/ops/movement.js";
import type { DecoderConfig } from "../models/config.js";
import { DecoderEmitter } from "../models/decoder.js";
import type { RowPicks } from "../models/decoder-context.js";
import type { EmitterOptions } from "../models/decoder-io.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import { isHalf, type Precision } from "./loss-scale.js";
import { crossEntropy, distillation } from "./losses.js";
import { emitDropout, type DropoutOptions } from "./lora-dropout.js";
import type { ParameterLayout, ParameterSpec } from "./parameters.js";
import { emitRotary } from "./rotary-rows.js";
import { TrainedTensors } from "./trained-tensors.js";
import { emitMasks } from "./training-masks.js";
import { emitTeacher } from "./teacher-graph.js";

/** Learning from the base model with the full context in view: the loss is (1 − weight) · CE + weight · T² · KL. */
export interface DistillOptions {
  /** Share of the distance to the teacher, above 0 and at most 1. */
  weight: number;
  /** T, by which the logits of both are divided. */
  temperature: number;
}

/** Sizes and scope of a training graph. */
export interface TrainingGraphSpec extends ParameterSpec {
  batch: number;
  seq: number;
  /** Most labels of one batch; at most batch · seq. */
  labels: number;
  /** alpha / rank */
  loraScale: number;
  /** Whether keys and values are averaged (CCM-merge, compressive). */
  averaging: boolean;
  /** Whether the LoRA acts at COMP tokens only, as it does by default if there are any. */
  conditional?: boolean;
  /** Compute the inside of each layer again in the backward pass, so that memory grows with one layer, not with all. */
  recompute?: boolean;
  /** Learn from a teacher too; batches must then bring its inputs. */
  distill?: DistillOptions;
  /** Drop inputs of the LoRA while training. */
  dropout?: DropoutOptions;
  /** Causal blocks that attention cuts rows into; default as on the CPU, by their length: see `causal-blocks.ts`. */
  attentionBlocks?: number;
  /** Default fp32. With half floats, the graph takes the factor on the loss as an input. */
  precision?: Precision;
}

/** Names of the inputs and outputs that a training graph has besides the decoder's. */
export const TRAINING_IO = {
  parameters: "parameters",
  accumulated: "accumulated",
  accumulatedLosses: "accumulated_losses",
  inputIds: "input_ids",
  textMask: "text_mask",
  compSelection: "comp_selection",
  labelRows: "label_rows",
  labelInverse: "label_inverse",
  labelIds: "label_ids",
  labelWeights: "label_weights",
  /** [1], with half floats: factor on the loss; the gradients that come out are those of the loss without it. */
  lossScale: "loss_scale",
  loss: "loss",
  gradient: "gradient",
  /** `accumulated_losses` plus the loss, and where there is one the distance to the teacher. */
  losses: "losses",
} as const;

/** Type of the matrix products of a training graph. */
export function computeType({ precision }: TrainingGraphSpec): "float32" | "float16" {
  return isHalf(precision) ? "float16" : "float32";
}

/**
 * Type of its sums through the layers, norms and softmaxes. Families that norm what a branch adds have sums that leave the
 * range of half floats.
 */
function sumTypeFor({ sandwichNorms }: DecoderConfig, { precision }: TrainingGraphSpec): "float32" | "float16" {
  return precision === "int8" && !sandwichNorms ? "float16" : "float32";
}

/** What a training graph learns, and the decoder that it is learned for. */
export interface TrainedDecoder {
  /** [parameters] float32, an input; gradients are taken by it. */
  vector: Value;
  tensors: TrainedTensors;
  emitter: DecoderEmitter;
}

/** A decoder whose LoRA is cut from the trained vector, an input; matrices of the LoRA have the type of the products. */
export function trainedDecoder(
  graph: GraphBuilder,
  config: DecoderConfig,
  weights: DecoderWeights,
  layout: ParameterLayout,
  spec: TrainingGraphSpec,
  { dropout, sumType = "float32" }: { dropout?: DropoutOptions } & Pick<EmitterOptions, "sumType"> = {},
): TrainedDecoder {
  const { targets: loraTargets, loraScale } = spec;
  const compute = computeType(spec);
  const vector = graph.input(TRAINING_IO.parameters, "float32", [layout.size]);
  const tensors = new TrainedTensors(graph, config, vector, layout, compute);
  const loraInput = dropout && { loraInput: emitDropout(graph, config, spec, dropout) };
  const emitter = new DecoderEmitter(graph, config, weights, spec, {
    compute,
    sumType,
    loraTargets,
    trainedLora: (...place) => tensors.lora(...place),
    loraScale,
    ...loraInput,
    values: { ...emitMasks(graph, config, spec), ...emitRotary(graph, config, spec, "student") },
  });
  return { vector, tensors, emitter };
}

/** Declares which rows predict the labels. */
export function labelPicks(
  graph: GraphBuilder,
  { batch, seq, labels }: TrainingGraphSpec,
): RowPicks & { inverse: Value } {
  const rows = graph.input(TRAINING_IO.labelRows, "int64", [labels]);
  return { rows, inverse: graph.input(TRAINING_IO.labelInverse, "int64", [batch * seq]) };
}

/**
 * The labels' logits [labels, vocab] and weights [labels, 1], and their mean negative log-likelihood.
 * @param last [labels, hidden], after the last norm
 */
export function labelLoss(
  graph: GraphBuilder,
  emitter: DecoderEmitter,
  last: Value,
  { labels }: TrainingGraphSpec,
): Pick<Forward, "logits" | "weights" | "loss"> {
  const ids = graph.input(TRAINING_IO.labelIds, "int64", [labels]);
  const weights = graph.input(TRAINING_IO.labelWeights, "float32", [labels, 1]);
  const logits = emitter.head(last);
  const loss = crossEntropy(graph, logits, emitter.headAt(last, ids), weights);
  return { logits, weights, loss };
}

/** What is differentiated in place of a loss, and how to take the factor that may be in it off a gradient. */
export function scaleLoss(
  graph: GraphBuilder,
  loss: Value,
  { precision }: TrainingGraphSpec,
): { scaled: Value; unscale: (gradient: Value) => Value } {
  if (!isHalf(precision)) return { scaled: loss, unscale: (gradient) => gradient };
  const factor = graph.input(TRAINING_IO.lossScale, "float32", [1]);
  const scaled = mul(graph, loss, reshape(graph, factor, loss.shape));
  return { scaled, unscale: (gradient) => div(graph, gradient, factor) };
}

/** Adds a gradient [parameters] and losses to inputs, the sums so far, and declares the new sums outputs. */
export function accumulate(graph: GraphBuilder, gradient: Value, losses: readonly Value[]): void {
  const accumulated = graph.input(TRAINING_IO.accumulated, "float32", gradient.shape);
  graph.output(add(graph, accumulated, gradient), TRAINING_IO.gradient);
  const before = graph.input(TRAINING_IO.accumulatedLosses, "float32", [losses.length]);
  const parts = losses.map((loss) => reshape(graph, loss, [1]));
  graph.output(add(graph, before, concat(graph, parts, 0)), TRAINING_IO.losses);
}

/** Embeddings [batch, seq, hidden]: table rows at text tokens, trained rows at COMP tokens. */
export function embed(
  graph: GraphBuilder,
  emitter: DecoderEmitter,
  spec: TrainingGraphSpec,
  compEmbeddings: Value | undefined,
): Value {
  const { batch, seq, compTokens } = spec;
  const text = emitter.lookUp(graph.input(TRAINING_IO.inputIds, "int64", [batch, seq]));
  if (compEmbeddings === undefined) return text;
  const mask = cast(graph, graph.input(TRAINING_IO.textMask, "float32", [batch, seq, 1]), text.dtype);
  const selection = graph.input(TRAINING_IO.compSelection, "float32", [batch, seq, compTokens]);
  const trained = emitter.scaleEmbeddings(matmul(graph, selection, compEmbeddings));
  return add(graph, mul(graph, text, mask), cast(graph, trained, text.dtype));
}

/** The forward pass and what later parts of the graph need of it. */
interface Forward {
  /** [parameters] */
  vector: Value;
  /** Hidden states between layers, in order; after the last one those of the labels. */
  states: Value[];
  /** [labels, vocab] */
  logits: Value;
  /** [labels, 1]; they sum to 1, and are 0 for unused places. */
  weights: Value;
  /** Mean negative log-likelihood of the labels. */
  loss: Value;
}

function emitForward(
  graph: GraphBuilder,
  config: DecoderConfig,
  weights: DecoderWeights,
  layout: ParameterLayout,
  spec: TrainingGraphSpec,
  dropout?: DropoutOptions,
): Forward {
  const { vector, tensors, emitter } = trainedDecoder(graph, config, weights, layout, spec, {
    dropout,
    sumType: sumTypeFor(config, spec),
  });
  const hidden = emitter.layersAt(embed(graph, emitter, spec, tensors.get("comp_embeddings")), labelPicks(graph, spec));
  const last = emitter.finalNorm(hidden);
  return { vector, states: [...emitter.layerInputs, hidden], ...labelLoss(graph, emitter, last, spec) };
}

/**
 * Builds the graph. Inputs: the gate, those of rotary tables and masks, {@link TRAINING_IO}'s, with distillation the
 * teacher's and with dropout its numbers; outputs: the sums so far plus the gradient, and plus the loss and the distance
 * to the teacher.
 */
export function buildTrainingGraph(
  config: DecoderConfig,
  weights: DecoderWeights,
  layout: ParameterLayout,
  spec: TrainingGraphSpec,
): GraphBuilder {
  const graph = new GraphBuilder(`train-${config.family}`, "primitive");
  const { distill } = spec;
  // Before the student, so that what it holds is free again when the student's activations pile up.
  const teacher =
    distill === undefined
      ? undefined
      : emitTeacher(graph, config, weights, spec, { compute: computeType(spec), sumType: sumTypeFor(config, spec) });
  const forward = emitForward(graph, config, weights, layout, spec, spec.dropout);
  const losses = [forward.loss];
  let objective = forward.loss;
  if (distill !== undefined && teacher !== undefined) {
    const { weight, temperature } = distill;
    const distance = distillation(graph, teacher, forward.logits, forward.weights, temperature);
    losses.push(distance);
    const pull = scale(graph, distance, weight * temperature ** 2);
    objective = weight === 1 ? pull : add(graph, scale(graph, objective, 1 - weight), pull);
  }
  const checkpoints = spec.recompute === true ? forward.states : [];
  const { scaled, unscale } = scaleLoss(graph, objective, spec);
  const [gradient] = differentiate(graph, scaled, [forward.vector], { checkpoints });
  accumulate(graph, unscale(gradient as Value), losses);
  return graph;
}

/** The forward pass alone, for evaluation: no gradient, no teacher, no dropout; the loss is its only output. */
export function buildEvaluationGraph(
  config: DecoderConfig,
  weights: DecoderWeights,
  layout: ParameterLayout,
  spec: TrainingGraphSpec,
): GraphBuilder {
  const graph = new GraphBuilder(`evaluate-${config.family}`, "primitive");
  graph.output(emitForward(graph, config, weights, layout, spec).loss, TRAINING_IO.loss);
  return graph;
}
