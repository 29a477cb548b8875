/** @file Emits the decoder of every family, for inference and for training alike. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { add, scale, softcap } from "../graph/ops/elementwise.js";
import { gatherRows } from "../graph/ops/movement.js";
import { rowProduct } from "../graph/ops/reduction.js";
import type { DecoderConfig } from "./config.js";
import { emitAttention } from "./decoder-attention.js";
import {
  asSummand,
  inLayer,
  narrow,
  pickTokens,
  tokenCount,
  widen,
  type DecoderContext,
  type Place,
  type RowPicks,
} from "./decoder-context.js";
import { declareInputs } from "./decoder-inputs.js";
import type { DecoderDims, EmitterOptions } from "./decoder-io.js";
import { emitMlp } from "./decoder-mlp.js";
import { addAndNorm, norm } from "./decoder-norms.js";
import { DecoderTaps } from "./decoder-taps.js";
import type { DecoderWeights } from "./decoder-weights.js";

/**
 * Emits one decoder into a graph; declares the inputs that all layers share. If it is cached, layers take past rows and
 * return new ones; if not, a pass stands alone.
 */
export class DecoderEmitter {
  readonly #decoder: DecoderContext;
  /** Hidden states that each layer starts from, as far as layers have been emitted. */
  readonly layerInputs: Value[] = [];

  constructor(
    graph: GraphBuilder,
    config: DecoderConfig,
    weights: DecoderWeights,
    dims: DecoderDims,
    options: EmitterOptions,
  ) {
    const {
      cached = false,
      compute = "float32",
      sumType = "float32",
      loraTargets,
      trainedLora,
      loraInput,
      taps,
    } = options;
    this.#decoder = {
      graph,
      config,
      weights,
      dims,
      compute,
      sumType,
      cached,
      inputs: declareInputs(graph, config, dims, options),
      lora: { targets: new Set(loraTargets), trained: trainedLora, input: loraInput },
      taps: new DecoderTaps(graph, config.layerCount, taps),
    };
  }

  /** Rows of the embedding table [batch, seq, hidden] for int64 token ids [batch, seq], as the first layer takes them. */
  lookUp(ids: Value): Value {
    return this.scaleEmbeddings(asSummand(this.#decoder, matrixRows(this.#decoder, "model.embed_tokens.weight", ids)));
  }

  /** Embedding rows multiplied by the factor that the family asks for. */
  scaleEmbeddings(rows: Value): Value {
    const { graph, config } = this.#decoder;
    return config.embeddingScale === 1 ? rows : scale(graph, rows, config.embeddingScale);
  }

  /**
   * All layers: embeddings [batch, seq, hidden] to the hidden states before the last norm, in the same shape.
   * @throws OPTION_INVALID for a tap that no layer has
   */
  layers(embeddings: Value): Value {
    return this.#layers(embeddings);
  }

  /**
   * The same for some rows only, [picked, hidden]. Nothing but the keys and values of other rows meets them, so the last
   * layer leaves those out from its attention on; where most rows are picked, picking them at the end is cheaper.
   */
  layersAt(embeddings: Value, picks: RowPicks): Value {
    const total = tokenCount(this.#decoder.dims);
    const few = typeof total === "number" && Number(picks.rows.shape[0]) < total;
    return few ? this.#layers(embeddings, picks) : pickTokens(this.#decoder, this.#layers(embeddings), picks);
  }

  #layers(embeddings: Value, picks?: RowPicks): Value {
    const { graph, config, taps } = this.#decoder;
    let hidden = embeddings;
    for (let layer = 0; layer < config.layerCount; layer++) {
      taps.tap(`hidden.${layer}`, hidden);
      const input = hidden;
      this.layerInputs.push(input);
      const picked = layer === config.layerCount - 1 ? picks : undefined;
      hidden = graph.scope(`model.layers.${layer}`, () => emitLayer(this.#decoder, layer, input, picked));
    }
    const lastTap = `hidden.${config.layerCount}`;
    if (taps.has(lastTap)) taps.tap(lastTap, this.finalNorm(hidden));
    taps.refuseUnknown();
    return hidden;
  }

  /** Logits [picked, vocab] of the rows of [batch · seq] that an int64 list names. */
  logits(hidden: Value, rows: Value): Value {
    return this.head(this.lastRows(hidden, { rows }));
  }

  /** Those rows after the last norm, [picked, hidden]. */
  lastRows(hidden: Value, picks: RowPicks): Value {
    return this.finalNorm(pickTokens(this.#decoder, hidden, picks));
  }

  /** Hidden states after the last norm, which the head reads. */
  finalNorm(hidden: Value): Value {
    return norm(this.#decoder, hidden, "model.norm");
  }

  /** Logits [rows, vocab] of rows after the last norm. */
  head(x: Value): Value {
    const { graph, weights } = this.#decoder;
    const logits = weights.project(graph, narrow(this.#decoder, x), headName(this.#decoder), false);
    return cap(this.#decoder, widen(this.#decoder, logits));
  }

  /** Of each row after the last norm the logit [rows, 1] of one token, which int64 `ids` [rows] name. */
  headAt(x: Value, ids: Value): Value {
    const decoder = this.#decoder;
    const columns = matrixRows(decoder, `${headName(decoder)}.weight`, ids);
    return cap(decoder, rowProduct(decoder.graph, widen(decoder, x), widen(decoder, columns)));
  }
}

/** One layer: hidden states [batch, seq, hidden] to those of the next, in the same shape or [picked, hidden]. */
function emitLayer(decoder: DecoderContext, layer: number, hidden: Value, picks: RowPicks | undefined): Value {
  const { graph } = decoder;
  const place = placeOf(decoder, layer, picks);
  const name = (part: string): string => inLayer(layer, part);
  const normed = narrow(decoder, norm(decoder, hidden, name("input_layernorm")));
  const attended = asSummand(decoder, emitAttention(decoder, place, normed));
  const residual = pickTokens(decoder, hidden, picks);
  const mlp = (x: Value): Value => asSummand(decoder, emitMlp(decoder, place, narrow(decoder, x)));
  if (!decoder.config.sandwichNorms) {
    const after = addAndNorm(decoder, residual, attended, name("post_attention_layernorm"));
    return add(graph, after.sum, mlp(after.normed));
  }
  const sum = add(graph, residual, norm(decoder, attended, name("post_attention_layernorm")));
  const fed = mlp(norm(decoder, sum, name("pre_feedforward_layernorm")));
  return add(graph, sum, norm(decoder, fed, name("post_feedforward_layernorm")));
}

/** A layer and its gate, which is picked from like the rows that it goes on with. */
function placeOf(decoder: DecoderContext, layer: number, picks: RowPicks | undefined): Place {
  const { gate } = decoder.inputs;
  if (picks === undefined) return { layer, gate };
  return { layer, gate: gate && pickTokens(decoder, gate, { rows: picks.rows }), picks };
}

/** Rows of a matrix, in the type of the products. */
function matrixRows(decoder: DecoderContext, name: string, ids: Value): Value {
  const { graph, weights, compute } = decoder;
  return gatherRows(graph, weights.matrix(graph, name, compute), ids);
}

function headName({ config, weights }: DecoderContext): string {
  // A quantised copy has a head matrix of its own; stored weights share the embedding table.
  return config.tiedHead && !weights.quantized ? "model.embed_tokens" : "lm_head";
}

function cap({ graph, config }: DecoderContext, logits: Value): Value {
  return config.logitSoftcap === undefined ? logits : softcap(graph, logits, config.logitSoftcap);
}
