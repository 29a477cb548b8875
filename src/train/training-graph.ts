/**
 * @file One training step as a graph: the parallel forward, the cross entropy of the labels, and the gradients of the
 * trained vector. Sizes are fixed when it is built.
 */
import { differentiate } from "../graph/autodiff.js";
import { GraphBuilder, type Value } from "../graph/builder.js";
import { add, equals, exp, log, mul, scale, sub } from "../graph/ops/elementwise.js";
import { matmul } from "../graph/ops/linalg.js";
import { concat, reshape, slice } from "../graph/ops/movement.js";
import { reduceMax, reduceSum } from "../graph/ops/reduction.js";
import type { DecoderConfig } from "../models/config.js";
import { DecoderEmitter } from "../models/decoder.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import { loraName, type ParameterLayout, type ParameterSpec } from "./parameters.js";

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
  /** Compute the inside of each layer again in the backward pass, so that memory grows with one layer, not with all. */
  recompute?: boolean;
}

/** Names of the inputs and outputs that a training graph has besides the decoder's. */
export const TRAINING_IO = {
  parameters: "parameters",
  accumulated: "accumulated",
  inputIds: "input_ids",
  textMask: "text_mask",
  compSelection: "comp_selection",
  labelRows: "label_rows",
  labelInverse: "label_inverse",
  labelIds: "label_ids",
  labelWeights: "label_weights",
  loss: "loss",
  gradient: "gradient",
} as const;

/** Cuts the flat vector into its tensors. */
function cutParameters(graph: GraphBuilder, vector: Value, layout: ParameterLayout): Map<string, Value> {
  return new Map(
    layout.slices.map(({ name, shape, offset, size }) => [
      name,
      reshape(graph, slice(graph, vector, 0, offset, size), shape),
    ]),
  );
}

/**
 * Σ weight · (−log softmax(logits)[label]).
 * @param logits [labels, vocab]
 * @param ids [labels, 1] float32: exact for any vocabulary below 2²⁴
 * @param weights [labels, 1]; 0 for unused rows
 */
function crossEntropy(graph: GraphBuilder, logits: Value, ids: Value, weights: Value, vocabSize: number): Value {
  const shifted = sub(graph, logits, reduceMax(graph, logits, [1], true));
  const normalizer = log(graph, reduceSum(graph, exp(graph, shifted), [1], true));
  const classes = graph.floats(
    Array.from({ length: vocabSize }, (_, id) => id),
    [1, vocabSize],
  );
  const chosen = reduceSum(graph, mul(graph, shifted, equals(graph, ids, classes)), [1], true);
  return reduceSum(graph, mul(graph, weights, sub(graph, normalizer, chosen)), [0, 1], false);
}

/** Embeddings [batch, seq, hidden]: table rows at text tokens, trained rows at COMP tokens. */
function embed(
  graph: GraphBuilder,
  emitter: DecoderEmitter,
  spec: TrainingGraphSpec,
  compEmbeddings: Value | undefined,
): Value {
  const { batch, seq, compTokens } = spec;
  const text = emitter.lookUp(graph.input(TRAINING_IO.inputIds, "int64", [batch, seq]));
  if (compEmbeddings === undefined) return text;
  const masked = mul(graph, text, graph.input(TRAINING_IO.textMask, "float32", [batch, seq, 1]));
  const selection = graph.input(TRAINING_IO.compSelection, "float32", [batch, seq, compTokens]);
  return add(graph, masked, emitter.scaleEmbeddings(matmul(graph, selection, compEmbeddings)));
}

/**
 * Builds the graph. Inputs: the decoder's (bias, rotary tables, gate, averaging) and {@link TRAINING_IO}'s; outputs: the
 * loss and `accumulated` plus the gradient, [parameters] each.
 */
export function buildTrainingGraph(
  config: DecoderConfig,
  weights: DecoderWeights,
  layout: ParameterLayout,
  spec: TrainingGraphSpec,
): GraphBuilder {
  const graph = new GraphBuilder(`train-${config.family}`, "primitive");
  const { batch, seq, labels } = spec;
  const vector = graph.input(TRAINING_IO.parameters, "float32", [layout.size]);
  const tensors = cutParameters(graph, vector, layout);
  const scaled = new Map<string, Value>();
  for (const [name, value] of tensors)
    if (name.startsWith("lora_b.")) scaled.set(name, scale(graph, value, spec.loraScale));
  const emitter = new DecoderEmitter(
    graph,
    config,
    weights,
    { batch, seq },
    {
      cached: false,
      loraTargets: spec.targets,
      loraPair: (layer, target) => ({
        a: tensors.get(loraName("a", layer, target)) as Value,
        b: scaled.get(loraName("b", layer, target)) as Value,
      }),
      averaging: spec.averaging,
    },
  );
  const hidden = emitter.layers(embed(graph, emitter, spec, tensors.get("comp_embeddings")));
  const rows = graph.input(TRAINING_IO.labelRows, "int64", [labels]);
  const inverse = graph.input(TRAINING_IO.labelInverse, "int64", [batch * seq]);
  const ids = graph.input(TRAINING_IO.labelIds, "float32", [labels, 1]);
  const labelWeights = graph.input(TRAINING_IO.labelWeights, "float32", [labels, 1]);
  const loss = crossEntropy(graph, emitter.logits(hidden, rows, inverse), ids, labelWeights, config.vocabSize);
  graph.output(loss, TRAINING_IO.loss);
  const parameters = layout.slices.map(({ name }) => tensors.get(name) as Value);
  const checkpoints = spec.recompute === true ? [...emitter.layerInputs, hidden] : [];
  const gradients = differentiate(graph, loss, parameters, { checkpoints }).map((gradient, index) =>
    reshape(graph, gradient, [layout.slices[index]?.size as number]),
  );
  const accumulated = graph.input(TRAINING_IO.accumulated, "float32", [layout.size]);
  graph.output(add(graph, accumulated, concat(graph, gradients, 0)), TRAINING_IO.gradient);
  return graph;
}
