/** @file The attention of a decoder layer: queries, keys and values, the past that they meet, and what they give. */
import type { Dim, Value } from "../graph/builder.js";
import { attention, rotary } from "../graph/ops/attention.js";
import { scale } from "../graph/ops/elementwise.js";
import { matmul } from "../graph/ops/linalg.js";
import { reduceMean } from "../graph/ops/reduction.js";
import { pickTokens, type DecoderContext, type Place } from "./decoder-context.js";
import type { TypeInputs } from "./decoder-inputs.js";
import { DECODER_IO, effectiveLayerType } from "./decoder-io.js";
import { headNorm } from "./decoder-norms.js";
import { project, projectGroup } from "./decoder-projections.js";

/** What a layer attends with; rows are [batch, seq, heads · headDim]. */
interface Attended {
  queries: Value;
  keys: Value;
  values: Value;
  /** Factor on the scores that is still to be applied. */
  scale: number;
}

/**
 * The output of a layer's attention for its normed input `x` [batch, seq, hidden], in the type of the matrix products:
 * [batch, seq, hidden], or [picked, hidden] where the place has picks.
 */
export function emitAttention(decoder: DecoderContext, place: Place, x: Value): Value {
  const { layer, picks } = place;
  const { types } = decoder.inputs;
  const ofType = types.get(effectiveLayerType(decoder.config, layer)) as TypeInputs;
  const attended = attend(decoder, layer, ofType.attentionBias, queriesKeysValues(decoder, layer, x, ofType));
  return project(decoder, place, pickTokens(decoder, attended, picks), "self_attn.o_proj", decoder.config.outputBias);
}

/** Queries, keys and values as they meet: normed, turned by their positions, keys and values averaged. */
function queriesKeysValues(decoder: DecoderContext, layer: number, x: Value, tables: TypeInputs): Attended {
  const { taps } = decoder;
  const { queryHeads, kvHeads, attentionScale } = decoder.config;
  const [q, k, v] = projectHeads(decoder, layer, x);
  // The primitive form would scale the queries in a pass of its own; a turn by scaled tables does it on the way.
  const early = decoder.graph.form === "primitive" && !taps.has(`queries.${layer}`);
  const normedQueries = headNorm(decoder, q, layer, "q_norm", queryHeads);
  const queries = rotate(decoder, normedQueries, tables, queryHeads, early ? attentionScale : 1);
  const turnedKeys = rotate(decoder, headNorm(decoder, k, layer, "k_norm", kvHeads), tables, kvHeads);
  const [keys, values] = [average(decoder, turnedKeys), average(decoder, v)];
  taps.tap(`queries.${layer}`, queries);
  return { queries, keys, values, scale: early ? 1 : attentionScale };
}

/** [batch, seq, heads · headDim] each, as projected. */
function projectHeads(decoder: DecoderContext, layer: number, x: Value): [Value, Value, Value] {
  const { queryHeads, kvHeads, headDim, attentionBias } = decoder.config;
  // All rows have keys, so the gate is that of all rows, also where the layer goes on with some.
  return projectGroup(decoder, { layer, gate: decoder.inputs.gate }, x, {
    stack: "self_attn.qkv_proj",
    parts: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    sizes: [queryHeads * headDim, kvHeads * headDim, kvHeads * headDim],
    bias: attentionBias,
    // A product for each cannot use a device any better, and its way back would be three more and two sums.
    join: !decoder.cached,
  }) as [Value, Value, Value];
}

/** [batch, seq, queryHeads · headDim], and the weights as taps where they are asked for. */
function attend(decoder: DecoderContext, layer: number, attentionBias: readonly Value[], inputs: Attended): Value {
  const { graph, taps } = decoder;
  const { queryHeads, kvHeads } = decoder.config;
  const weightsTap = `attention.${layer}`;
  const meanTap = `attention_mean.${layer}`;
  const [attended, weights] = attention(graph, {
    ...inputs,
    attentionBias,
    ...(decoder.cached ? exchangeRows(decoder, layer, inputs) : {}),
    queryHeads,
    kvHeads,
    softmaxType: decoder.sumType,
    returnWeights: taps.has(weightsTap) || taps.has(meanTap),
  });
  if (weights !== undefined) taps.tap(weightsTap, weights);
  // Averaged here, as all heads of all layers would be copied out of the engine.
  if (taps.has(meanTap)) taps.tap(meanTap, reduceMean(graph, weights as Value, [1], false));
  return attended;
}

/** Declares the past of a layer as inputs and its new rows as outputs. */
function exchangeRows(
  { graph, dims, config }: DecoderContext,
  layer: number,
  { keys, values }: Attended,
): { pastKeys: Value; pastValues: Value } {
  graph.output(keys, DECODER_IO.newKeys(layer));
  graph.output(values, DECODER_IO.newValues(layer));
  const past: Dim[] = [dims.batch, config.kvHeads, "past", config.headDim];
  return {
    pastKeys: graph.input(DECODER_IO.pastKeys(layer), "float32", past),
    pastValues: graph.input(DECODER_IO.pastValues(layer), "float32", past),
  };
}

/** Heads turned by their positions and multiplied by `factor`. */
function rotate({ graph }: DecoderContext, x: Value, tables: TypeInputs, heads: number, factor: number = 1): Value {
  const [cos, sin] = [tables.cos, tables.sin].map((table) => (factor === 1 ? table : scale(graph, table, factor)));
  return rotary(graph, x, cos as Value, sin as Value, heads, tables.rows);
}

function average({ graph, inputs }: DecoderContext, rows: Value): Value {
  return inputs.averaging === undefined ? rows : matmul(graph, inputs.averaging, rows);
}
