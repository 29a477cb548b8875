/**
 * @file One segment of recurrent summaries (AutoCompressor, RMT) as a graph: soft prompt in, next soft prompt out, and for
 * training the gradients. Back-propagation through time runs it once per segment.
 */
import { differentiate } from "../graph/autodiff.js";
import { GraphBuilder, type Value } from "../graph/builder.js";
import { add, exp, mul } from "../graph/ops/elementwise.js";
import { matmul } from "../graph/ops/linalg.js";
import { concat, expand, reshape, split } from "../graph/ops/movement.js";
import { reduceSum } from "../graph/ops/reduction.js";
import type { DecoderConfig } from "../models/config.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import type { ParameterLayout } from "./parameters.js";
import {
  accumulate,
  embed,
  labelLoss,
  labelPicks,
  scaleLoss,
  TRAINING_IO,
  trainedDecoder,
  type TrainingGraphSpec,
} from "./training-graph.js";

/** Sizes of a segment's graph; `seq` is slots + segment length + summary tokens (`compTokens`), in this order. */
export interface SegmentGraphSpec extends TrainingGraphSpec {
  /** Summaries that a soft prompt has room for. */
  slots: number;
}

/** Names of the inputs and outputs that a segment has besides those of any training graph. */
export const SEGMENT_IO = {
  /** [batch, slots, hidden], the soft prompt before its gain; 0 where there is no summary. */
  summaries: "summaries",
  /** [batch, slots, compTokens], 1 where a new summary takes a slot. */
  place: "place",
  /** [batch, slots, 1], 1 where a slot keeps its summary. */
  keep: "keep",
  /** [batch, slots, hidden], the soft prompt of the next segment. */
  nextSummaries: "next_summaries",
  /** [batch, slots, hidden], gradient of later segments' loss by the next soft prompt. */
  nextGradient: "next_gradient",
  /** [batch, slots, hidden], gradient of this and later segments' loss by this segment's soft prompt. */
  summaryGradient: "summary_gradient",
} as const;

/**
 * What a segment's graph computes: the next soft prompt; gradients, with or without labels of its own; or, without
 * dropout, the next soft prompt and the loss.
 */
export type SegmentPart = "forward" | "backward" | "backward-without-labels" | "evaluation";

/**
 * Builds one part. In the backward ones, the scalar that is differentiated is
 * loss + ⟨next soft prompt, gradient of later segments by it⟩, whose gradients are those of the whole chain.
 */
export function buildSegmentGraph(
  config: DecoderConfig,
  weights: DecoderWeights,
  layout: ParameterLayout,
  spec: SegmentGraphSpec,
  part: SegmentPart,
): GraphBuilder {
  const graph = new GraphBuilder(`segment-${part}-${config.family}`, "primitive");
  const { batch, seq, slots, compTokens } = spec;
  const { hiddenSize } = config;
  const dropout = part === "evaluation" ? undefined : spec.dropout;
  const { vector, tensors, emitter } = trainedDecoder(graph, config, weights, layout, spec, { dropout });
  const prompt = [batch, slots, hiddenSize];
  const summaries = graph.input(SEGMENT_IO.summaries, "float32", prompt);
  const gain = reshape(graph, exp(graph, tensors.get("summary_log_gain") as Value), [1, 1, hiddenSize]);
  const soft = emitter.scaleEmbeddings(mul(graph, summaries, gain));
  const elsewhere = expand(graph, graph.floats([0], [1, 1, 1]), [batch, seq - slots, hiddenSize]);
  const embedded = embed(graph, emitter, spec, tensors.get("comp_embeddings"));
  const hidden = emitter.layers(add(graph, embedded, concat(graph, [soft, elsewhere], 1)));
  const [, atSummaries] = split(graph, hidden, [seq - compTokens, compTokens], 1) as [Value, Value];
  const fresh = emitter.finalNorm(atSummaries);
  const kept = mul(graph, graph.input(SEGMENT_IO.keep, "float32", [batch, slots, 1]), summaries);
  const placed = matmul(graph, graph.input(SEGMENT_IO.place, "float32", [batch, slots, compTokens]), fresh);
  const next = add(graph, kept, placed);
  const loss =
    part === "backward" || part === "evaluation"
      ? labelLoss(graph, emitter, emitter.lastRows(hidden, labelPicks(graph, spec)), spec).loss
      : undefined;
  if (part === "forward" || part === "evaluation") {
    if (loss !== undefined) graph.output(loss, TRAINING_IO.loss);
    graph.output(next, SEGMENT_IO.nextSummaries);
    return graph;
  }
  const later = graph.input(SEGMENT_IO.nextGradient, "float32", prompt);
  // In two parts, as devices give each element of the output to one thread.
  const products = reduceSum(graph, mul(graph, next, later), [2], false);
  const throughNext = reduceSum(graph, products, [0, 1], false);
  const objective = loss === undefined ? throughNext : add(graph, loss, throughNext);
  const checkpoints = spec.recompute === true ? [...emitter.layerInputs, hidden] : [];
  const { scaled, unscale } = scaleLoss(graph, objective, spec);
  const [byVector, bySummaries] = differentiate(graph, scaled, [vector, summaries], { checkpoints }).map(unscale);
  accumulate(graph, byVector as Value, [loss ?? graph.floats([0])]);
  graph.output(bySummaries as Value, SEGMENT_IO.summaryGradient);
  return graph;
}
