/** @file What the parts of one decoder share while it is emitted, and how they change types and pick rows. */
import type { Dim, GraphBuilder, Value } from "../graph/builder.js";
import { cast } from "../graph/ops/elementwise.js";
import { gatherRows, pickRows, reshape } from "../graph/ops/movement.js";
import type { DecoderConfig } from "./config.js";
import type { DecoderInputs } from "./decoder-inputs.js";
import type { DecoderDims, DecoderGraphOptions } from "./decoder-io.js";
import type { DecoderTaps } from "./decoder-taps.js";
import type { DecoderWeights } from "./decoder-weights.js";

/** Which projections a LoRA changes, and where its matrices and inputs come from; see the decoder's options. */
export interface LoraSource {
  targets: ReadonlySet<string>;
  trained: DecoderGraphOptions["trainedLora"];
  input: DecoderGraphOptions["loraInput"];
}

/** One decoder as it is being emitted. */
export interface DecoderContext {
  readonly graph: GraphBuilder;
  readonly config: DecoderConfig;
  readonly weights: DecoderWeights;
  readonly dims: DecoderDims;
  /** Type of the matrix products. */
  readonly compute: "float32" | "float16";
  /** Type of the sum that runs through the layers, of its norms and of the softmax of attention. */
  readonly sumType: "float32" | "float16";
  /** Whether layers take past rows and return new ones. */
  readonly cached: boolean;
  readonly inputs: DecoderInputs;
  readonly lora: LoraSource;
  readonly taps: DecoderTaps;
}

/** Rows of [batch · seq], each picked once at most. */
export interface RowPicks {
  /** int64 [picked] */
  rows: Value;
  /** int64 [batch · seq], needed to be differentiated: see {@link pickRows}. */
  inverse?: Value;
}

/** Where in the decoder a projection stands. */
export interface Place {
  layer: number;
  /** Per token that the projection sees, if there is a LoRA. */
  gate: Value | undefined;
  /** The rows that the layer goes on with after its attention; default all. */
  picks?: RowPicks;
}

/** The name of a tensor of a layer in checkpoints, without ".weight". */
export function inLayer(layer: number, name: string): string {
  return `model.layers.${layer}.${name}`;
}

/** `x` in the type of the matrix products. */
export function narrow({ graph, compute }: DecoderContext, x: Value): Value {
  return cast(graph, x, compute);
}

/** `x` as float32. */
export function widen({ graph }: DecoderContext, x: Value): Value {
  return cast(graph, x, "float32");
}

/** `x` in the type of the sum that runs through the layers. */
export function asSummand({ graph, sumType }: DecoderContext, x: Value): Value {
  return cast(graph, x, sumType);
}

/** batch · seq, as far as it is known. */
export function tokenCount({ batch, seq }: DecoderDims): Dim {
  return typeof batch === "number" && typeof seq === "number" ? batch * seq : "tokens";
}

/** [batch, seq, features] to [picked, features]; without picks, `x` as it is. */
export function pickTokens({ graph, dims }: DecoderContext, x: Value, picks: RowPicks | undefined): Value {
  if (picks === undefined) return x;
  const { rows, inverse } = picks;
  const flat = reshape(graph, x, [tokenCount(dims), x.shape[2] as Dim]);
  return inverse === undefined ? gatherRows(graph, flat, rows) : pickRows(graph, flat, rows, inverse);
}
