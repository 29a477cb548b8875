/** @file The inputs that all layers of a decoder share: attention bias, rotary tables, LoRA gate and averages. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { cast, scale } from "../graph/ops/elementwise.js";
import { sumDims } from "../graph/ops/shapes.js";
import type { DecoderConfig, LayerType } from "./config.js";
import { DECODER_IO, layerTypesOf, type DecoderDims, type EmitterOptions } from "./decoder-io.js";

/** What layers of one type attend by. */
export interface TypeInputs {
  /** [batch, 1, seq, past + seq], or its causal blocks. */
  attentionBias: readonly Value[];
  /** [batch, seq, rotaryDim / 2], or where there are `rows` [positions, rotaryDim / 2]. */
  cos: Value;
  /** As `cos`. */
  sin: Value;
  /** int64 [batch, seq]: which row of the tables belongs to each token. */
  rows: Value | undefined;
}

/** What all layers share, in the type of the matrix products. */
export interface DecoderInputs {
  types: ReadonlyMap<LayerType, TypeInputs>;
  /** [batch, seq, 1], with the factor on updates in it; only where there is a LoRA. */
  gate: Value | undefined;
  /** [batch, seq, seq], which replaces keys and values by averages. */
  averaging: Value | undefined;
}

/** Declares these inputs, but for those that the options give as values. */
export function declareInputs(
  graph: GraphBuilder,
  config: DecoderConfig,
  dims: DecoderDims,
  options: EmitterOptions,
): DecoderInputs {
  const types = new Map<LayerType, TypeInputs>();
  for (const type of layerTypesOf(config)) types.set(type, declareType(graph, config, dims, options, type));
  const gate = declareGate(graph, dims, options);
  return { types, gate, averaging: declareAveraging(graph, dims, options) };
}

function declareType(
  graph: GraphBuilder,
  config: DecoderConfig,
  { batch, seq }: DecoderDims,
  { cached, compute = "float32", values }: EmitterOptions,
  type: LayerType,
): TypeInputs {
  const total = cached === true ? sumDims(["past", seq]) : seq;
  const bias =
    values?.attentionBias?.(type) ?? graph.input(DECODER_IO.attentionBias(type), "float32", [batch, 1, seq, total]);
  const attentionBias = [bias].flat().map((block) => cast(graph, block, compute));
  const pairs = config.rotary[type].inverseFrequencies.length;
  const table = (name: string): Value => graph.input(name, "float32", [batch, seq, pairs]);
  const { cos, sin, rows } = values?.rotary?.(type) ?? {
    cos: table(DECODER_IO.rotaryCos(type)),
    sin: table(DECODER_IO.rotarySin(type)),
    rows: undefined,
  };
  return { attentionBias, cos: cast(graph, cos, compute), sin: cast(graph, sin, compute), rows };
}

function declareGate(
  graph: GraphBuilder,
  { batch, seq }: DecoderDims,
  { compute = "float32", loraTargets = [], loraScale }: EmitterOptions,
): Value | undefined {
  if (loraTargets.length === 0) return undefined;
  const gate = graph.input(DECODER_IO.gate, "float32", [batch, seq, 1]);
  return cast(graph, loraScale === undefined ? gate : scale(graph, gate, loraScale), compute);
}

function declareAveraging(
  graph: GraphBuilder,
  { batch, seq }: DecoderDims,
  { compute = "float32", averaging, values }: EmitterOptions,
): Value | undefined {
  const known = values?.averaging;
  if (known !== undefined) return cast(graph, known, compute);
  if (averaging !== true) return undefined;
  return cast(graph, graph.input(DECODER_IO.averaging, "float32", [batch, seq, seq]), compute);
}
