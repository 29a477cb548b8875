/** @file The linear projections of a decoder's layers, their LoRA updates included. */
import type { Value } from "../graph/builder.js";
import { add } from "../graph/ops/elementwise.js";
import { split } from "../graph/ops/movement.js";
import { inLayer, narrow, type DecoderContext, type Place } from "./decoder-context.js";
import { adapt, adaptJoined } from "./decoder-lora.js";

/** Projections that read one input. */
export interface ProjectionGroup {
  /** Name of the matrix that holds them all, where weights are stacked. */
  stack: string;
  /** Names of the projections, in the order in which they are stacked. */
  parts: readonly string[];
  /** Output features of each. */
  sizes: readonly number[];
  bias: boolean;
  /** Whether to make one product of matrices that are stored apart, if the weights can. */
  join: boolean;
}

/** One projection of a layer: [..., in] to [..., out]. */
export function project(decoder: DecoderContext, place: Place, x: Value, name: string, bias: boolean): Value {
  const product = decoder.weights.project(decoder.graph, x, inLayer(place.layer, name), bias);
  return adapt(decoder, place, x, [product], [name])[0] as Value;
}

/** Each projection of a group: one product and a split where the weights are stacked, else one product each. */
export function projectGroup(decoder: DecoderContext, place: Place, x: Value, group: ProjectionGroup): Value[] {
  return decoder.weights.fused ? projectStack(decoder, place, x, group) : projectParts(decoder, place, x, group);
}

function projectParts(
  decoder: DecoderContext,
  place: Place,
  x: Value,
  { parts, sizes, bias, join }: ProjectionGroup,
): Value[] {
  const { graph, weights } = decoder;
  const paths = parts.map((part) => inLayer(place.layer, part));
  const joined = join ? weights.projectJoined?.(graph, x, paths, bias) : undefined;
  if (joined !== undefined) return split(graph, adaptJoined(decoder, place, x, joined, parts), sizes, -1);
  const bases = paths.map((path) => weights.project(graph, x, path, bias));
  return adapt(decoder, place, x, bases, parts);
}

function projectStack(
  decoder: DecoderContext,
  place: Place,
  x: Value,
  { stack, parts, sizes, bias }: ProjectionGroup,
): Value[] {
  const { graph } = decoder;
  // Biases and updates of the parts belong to the parts, unless the checkpoint itself stores one stacked matrix.
  const native = decoder.config.fusedProjections;
  const pieces = split(graph, project(decoder, place, x, stack, bias && native), sizes, -1);
  const biased =
    bias && !native
      ? pieces.map((piece, index) => add(graph, piece, biasOf(decoder, place.layer, parts[index] as string)))
      : pieces;
  return adapt(decoder, place, x, biased, parts);
}

/** [out] */
function biasOf(decoder: DecoderContext, layer: number, part: string): Value {
  return narrow(decoder, decoder.weights.vector(decoder.graph, `${inLayer(layer, part)}.bias`));
}
