/** @file Emits the decoder of every family, for inference and for training alike. */
import { PrecisError } from "../errors.js";
import type { Dim, GraphBuilder, Value } from "../graph/builder.js";
import { attention, rotary } from "../graph/ops/attention.js";
import { add, cast, gelu, mul, scale, softcap, swiglu } from "../graph/ops/elementwise.js";
import { matmul } from "../graph/ops/linalg.js";
import { gatherRows, pickRows, reshape, split } from "../graph/ops/movement.js";
import { rmsNorm, skipRmsNorm } from "../graph/ops/normalization.js";
import { reduceMean, rowProduct } from "../graph/ops/reduction.js";
import { sumDims } from "../graph/ops/shapes.js";
import type { DecoderConfig, LayerType } from "./config.js";
import {
  type LoraTarget,
  type DecoderGraphOptions,
  type DecoderValues,
  DECODER_IO,
  effectiveLayerType,
  layerTypesOf,
  type DecoderDims,
} from "./decoder-io.js";
import type { DecoderWeights } from "./decoder-weights.js";
import { addLora, addStackedLora, type LoraUpdate, type StackedLora } from "./lora.js";

/** Rows of [batch · seq], each picked once at most. */
export interface RowPicks {
  /** int64 [picked] */
  rows: Value;
  /** int64 [batch · seq], needed to be differentiated: see {@link pickRows}. */
  inverse?: Value;
}

/** Where in the decoder a projection stands. */
interface Place {
  layer: number;
  /** Per token that the layer goes on with, if there is a LoRA. */
  gate: Value | undefined;
  /** The rows that the layer goes on with after its attention; default all. */
  picks?: RowPicks;
}

/**
 * Emits one decoder into a graph; declares the inputs that all layers share. If it is cached, layers take past rows and
 * return new ones; if not, a pass stands alone.
 */
export class DecoderEmitter {
  readonly graph: GraphBuilder;
  readonly #dims: DecoderDims;
  readonly #config: DecoderConfig;
  readonly #weights: DecoderWeights;
  readonly #lora: ReadonlySet<string>;
  readonly #trainedLora: DecoderGraphOptions["trainedLora"];
  readonly #loraInput: DecoderGraphOptions["loraInput"];
  readonly #taps: ReadonlySet<string>;
  readonly #bias = new Map<LayerType, Value>();
  readonly #cos = new Map<LayerType, Value>();
  readonly #sin = new Map<LayerType, Value>();
  readonly #gate: Value | undefined;
  readonly #averaging: Value | undefined;
  readonly #unknownTaps: Set<string>;
  /** Type of the matrix products. */
  readonly #compute: "float32" | "float16";
  /** Whether layers take past rows and return new ones. */
  readonly #cached: boolean;
  /** Hidden states that each layer starts from, as far as layers have been emitted. */
  readonly layerInputs: Value[] = [];

  constructor(
    graph: GraphBuilder,
    config: DecoderConfig,
    weights: DecoderWeights,
    dims: DecoderDims,
    options: Omit<DecoderGraphOptions, "input" | "form"> & { cached: boolean; values?: DecoderValues },
  ) {
    this.graph = graph;
    this.#cached = options.cached;
    this.#compute = options.compute ?? "float32";
    this.#dims = dims;
    this.#config = config;
    this.#weights = weights;
    this.#lora = new Set(options.loraTargets);
    this.#trainedLora = options.trainedLora;
    this.#loraInput = options.loraInput;
    this.#taps = new Set(options.taps);
    this.#unknownTaps = new Set(options.taps);
    const total = this.#cached ? sumDims(["past", dims.seq]) : dims.seq;
    for (const type of layerTypesOf(config)) {
      const pairs = config.rotary[type].inverseFrequencies.length;
      const table = (name: string): Value => this.graph.input(name, "float32", [dims.batch, dims.seq, pairs]);
      const { attentionBias, rotary: tables } = options.values ?? {};
      const bias =
        attentionBias?.(type) ??
        this.graph.input(DECODER_IO.attentionBias(type), "float32", [dims.batch, 1, dims.seq, total]);
      this.#bias.set(type, this.#narrow(bias));
      const { cos, sin } = tables?.(type) ?? {
        cos: table(DECODER_IO.rotaryCos(type)),
        sin: table(DECODER_IO.rotarySin(type)),
      };
      this.#cos.set(type, this.#narrow(cos));
      this.#sin.set(type, this.#narrow(sin));
    }
    if (this.#lora.size > 0) {
      const gate = this.graph.input(DECODER_IO.gate, "float32", [dims.batch, dims.seq, 1]);
      this.#gate = this.#narrow(options.loraScale === undefined ? gate : scale(this.graph, gate, options.loraScale));
    }
    let averaging = options.values?.averaging;
    if (options.averaging === true) {
      averaging ??= this.graph.input(DECODER_IO.averaging, "float32", [dims.batch, dims.seq, dims.seq]);
    }
    this.#averaging = averaging && this.#narrow(averaging);
  }

  /** `x` in the type of the matrix products. */
  #narrow(x: Value): Value {
    return cast(this.graph, x, this.#compute);
  }

  /** `x` as float32. */
  #widen(x: Value): Value {
    return cast(this.graph, x, "float32");
  }

  /** Rows of the embedding table [batch, seq, hidden] for int64 token ids [batch, seq], as the first layer takes them. */
  lookUp(ids: Value): Value {
    return this.scaleEmbeddings(this.#matrixRows("model.embed_tokens.weight", ids));
  }

  /** Rows of a matrix as float32. */
  #matrixRows(name: string, ids: Value): Value {
    return this.#widen(gatherRows(this.graph, this.#weights.matrix(this.graph, name, this.#compute), ids));
  }

  /** Embedding rows multiplied by the factor that the family asks for. */
  scaleEmbeddings(rows: Value): Value {
    const { embeddingScale } = this.#config;
    return embeddingScale === 1 ? rows : scale(this.graph, rows, embeddingScale);
  }

  /** All layers: embeddings [batch, seq, hidden] to the hidden states before the last norm, in the same shape. */
  layers(embeddings: Value): Value {
    return this.#layers(embeddings);
  }

  /**
   * The same for some rows only, [picked, hidden]. Nothing but the keys and values of other rows meets them, so the last
   * layer leaves those out from its attention on; where most rows are picked, picking them at the end is cheaper.
   */
  layersAt(embeddings: Value, picks: RowPicks): Value {
    const { batch, seq } = this.#dims;
    const [picked] = picks.rows.shape;
    const few = typeof batch === "number" && typeof seq === "number" && Number(picked) < batch * seq;
    return few ? this.#layers(embeddings, picks) : this.#pick(this.#layers(embeddings), picks);
  }

  #layers(embeddings: Value, picks?: RowPicks): Value {
    let hidden = embeddings;
    const last = this.#config.layerCount - 1;
    for (let layer = 0; layer <= last; layer++) {
      this.#tap(`hidden.${layer}`, hidden);
      const input = hidden;
      this.layerInputs.push(input);
      const place = { layer, gate: this.#gate };
      hidden = this.graph.scope(`model.layers.${layer}`, () =>
        this.#layer(layer === last && picks !== undefined ? this.#placeOf(place, picks) : place, input),
      );
    }
    const lastTap = `hidden.${this.#config.layerCount}`;
    if (this.#taps.has(lastTap)) this.#tap(lastTap, this.finalNorm(hidden));
    this.#refuseUnknownTaps();
    return hidden;
  }

  /** Logits [picked, vocab] of the rows of [batch · seq] that an int64 list names. */
  logits(hidden: Value, rows: Value): Value {
    return this.head(this.lastRows(hidden, { rows }));
  }

  /** Those rows after the last norm, [picked, hidden]. */
  lastRows(hidden: Value, picks: RowPicks): Value {
    return this.finalNorm(this.#pick(hidden, picks));
  }

  /** [batch, seq, features] to [picked, features] */
  #pick(x: Value, { rows, inverse }: RowPicks): Value {
    const { batch, seq } = this.#dims;
    const tokens = typeof batch === "number" && typeof seq === "number" ? batch * seq : "tokens";
    const flat = reshape(this.graph, x, [tokens, x.shape[2] as Dim]);
    return inverse === undefined ? gatherRows(this.graph, flat, rows) : pickRows(this.graph, flat, rows, inverse);
  }

  /** A layer that goes on with the picked rows after its attention. */
  #placeOf({ layer, gate }: Place, picks: RowPicks): Place {
    return { layer, gate: gate && this.#pick(gate, { rows: picks.rows }), picks };
  }

  /** Hidden states after the last norm, which the head reads. */
  finalNorm(hidden: Value): Value {
    return this.#norm(hidden, "model.norm");
  }

  /** Logits [rows, vocab] of rows after the last norm. */
  head(x: Value): Value {
    const logits = this.#weights.project(this.graph, this.#narrow(x), this.#headName(), false);
    return this.#cap(this.#widen(logits));
  }

  /** Of each row after the last norm the logit [rows, 1] of one token, which int64 `ids` [rows] name. */
  headAt(x: Value, ids: Value): Value {
    return this.#cap(rowProduct(this.graph, x, this.#matrixRows(`${this.#headName()}.weight`, ids)));
  }

  #layer(place: Place, hidden: Value): Value {
    const { graph } = this;
    const { picks } = place;
    const prefix = `model.layers.${place.layer}`;
    const { sandwichNorms } = this.#config;
    const attended = this.#widen(this.#attention(place, this.#narrow(this.#norm(hidden, `${prefix}.input_layernorm`))));
    const residual = picks === undefined ? hidden : this.#pick(hidden, picks);
    if (!sandwichNorms) {
      const { normed, sum } = this.#addAndNorm(residual, attended, `${prefix}.post_attention_layernorm`);
      return add(graph, sum, this.#widen(this.#mlp(place, this.#narrow(normed))));
    }
    const afterAttention = add(graph, residual, this.#norm(attended, `${prefix}.post_attention_layernorm`));
    const fed = this.#mlp(place, this.#narrow(this.#norm(afterAttention, `${prefix}.pre_feedforward_layernorm`)));
    return add(graph, afterAttention, this.#norm(this.#widen(fed), `${prefix}.post_feedforward_layernorm`));
  }

  /** The output of a layer's attention, of the picked rows where there are such. */
  #attention(place: Place, x: Value): Value {
    const { graph } = this;
    const { layer, picks } = place;
    const { queryHeads, kvHeads, attentionScale } = this.#config;
    const type = effectiveLayerType(this.#config, layer);
    const [q, k, v] = this.#queriesKeysValues({ layer, gate: this.#gate }, x);
    // The primitive form would scale the queries in a pass of its own; a turn by scaled tables does it on the way.
    const early = graph.form === "primitive" && !this.#taps.has(`queries.${layer}`);
    const queries = this.#rotate(
      this.#headNorm(q, layer, "q_norm", queryHeads),
      type,
      queryHeads,
      early ? attentionScale : 1,
    );
    const keys = this.#average(this.#rotate(this.#headNorm(k, layer, "k_norm", kvHeads), type, kvHeads));
    const values = this.#average(v);
    this.#tap(`queries.${layer}`, queries);
    const weightsTap = `attention.${layer}`;
    const meanTap = `attention_mean.${layer}`;
    const [attended, attentionWeights] = attention(graph, {
      queries,
      keys,
      values,
      attentionBias: this.#bias.get(type) as Value,
      ...(this.#cached ? this.#exchangeRows(layer, keys, values) : {}),
      queryHeads,
      kvHeads,
      scale: early ? 1 : attentionScale,
      returnWeights: this.#taps.has(weightsTap) || this.#taps.has(meanTap),
    });
    if (attentionWeights !== undefined) this.#tap(weightsTap, attentionWeights);
    // Averaged here, as all heads of all layers would be copied out of the engine.
    if (this.#taps.has(meanTap)) this.#tap(meanTap, reduceMean(graph, attentionWeights as Value, [1], false));
    const rows = picks === undefined ? attended : this.#pick(attended, picks);
    return this.#project(place, rows, "self_attn.o_proj", this.#config.outputBias);
  }

  /** Declares the past of a layer as inputs and its new rows as outputs. */
  #exchangeRows(layer: number, keys: Value, values: Value): { pastKeys: Value; pastValues: Value } {
    const { graph } = this;
    graph.output(keys, DECODER_IO.newKeys(layer));
    graph.output(values, DECODER_IO.newValues(layer));
    const past: Dim[] = [this.#dims.batch, this.#config.kvHeads, "past", this.#config.headDim];
    return {
      pastKeys: graph.input(DECODER_IO.pastKeys(layer), "float32", past),
      pastValues: graph.input(DECODER_IO.pastValues(layer), "float32", past),
    };
  }

  /** [batch, seq, heads · headDim] each */
  #queriesKeysValues(place: Place, x: Value): [Value, Value, Value] {
    const { queryHeads, kvHeads, headDim, attentionBias } = this.#config;
    const sizes = [queryHeads * headDim, kvHeads * headDim, kvHeads * headDim];
    return this.#stacked(
      place,
      x,
      "self_attn.qkv_proj",
      ["q", "k", "v"].map((p) => `self_attn.${p}_proj`),
      sizes,
      // A product for each cannot use a device any better, and its way back would be three more and two sums.
      { bias: attentionBias, join: !this.#cached },
    ) as [Value, Value, Value];
  }

  #mlp(place: Place, x: Value): Value {
    const { graph } = this;
    const { intermediateSize, activation, mlpBias } = this.#config;
    const names = ["mlp.gate_proj", "mlp.up_proj"];
    const [gate, up] = this.#stacked(
      place,
      x,
      "mlp.gate_up_proj",
      names,
      [intermediateSize, intermediateSize],
      // As wide as they are, taking one product apart would cost more than the second product.
      { bias: mlpBias, join: false },
    ) as [Value, Value];
    // The powers of a GELU and of its gradient leave the range of half floats.
    const fed =
      activation === "silu"
        ? swiglu(graph, gate, up)
        : mul(graph, this.#narrow(gelu(graph, this.#widen(gate), activation === "gelu" ? "none" : "tanh")), up);
    return this.#project(place, fed, "mlp.down_proj", mlpBias);
  }

  /** Projections of one input: one product and a split where the weights are stacked, else one product each. */
  #stacked(
    place: Place,
    x: Value,
    stack: string,
    parts: readonly string[],
    sizes: readonly number[],
    { bias, join }: { bias: boolean; join: boolean },
  ): Value[] {
    const { graph } = this;
    const { layer } = place;
    if (!this.#weights.fused) {
      const paths = parts.map((part) => `model.layers.${layer}.${part}`);
      const joined = join ? this.#weights.projectJoined?.(graph, x, paths, bias) : undefined;
      if (joined !== undefined) return split(graph, this.#adaptJoined(place, x, joined, parts), sizes, -1);
      const bases = paths.map((path) => this.#weights.project(graph, x, path, bias));
      return this.#adapt(place, x, bases, parts);
    }
    // Biases and updates of the parts belong to the parts, unless the checkpoint itself stores one stacked matrix.
    const native = this.#config.fusedProjections;
    const product = this.#project(place, x, stack, bias && native);
    const biased = split(graph, product, sizes, -1).map((piece, index) =>
      bias && !native
        ? add(
            graph,
            piece,
            this.#narrow(this.#weights.vector(graph, `model.layers.${layer}.${parts[index] as string}.bias`)),
          )
        : piece,
    );
    return this.#adapt(place, x, biased, parts);
  }

  #project(place: Place, x: Value, name: string, bias: boolean): Value {
    const product = this.#weights.project(this.graph, x, `model.layers.${place.layer}.${name}`, bias);
    return this.#adapt(place, x, [product], [name])[0] as Value;
  }

  /** Adds the LoRA updates of projections of one input. */
  #adapt(place: Place, x: Value, bases: readonly Value[], names: readonly string[]): Value[] {
    const { graph } = this;
    const { layer, gate } = place;
    const targets = names.filter((name): name is LoraTarget => this.#lora.has(name));
    const [first] = targets;
    if (gate === undefined || first === undefined) return [...bases];
    if (this.#trainedLora !== undefined) {
      const changed = bases.filter((_, index) => this.#lora.has(names[index] as string));
      const stack = this.#trainedLora(layer, targets);
      const updated = addStackedLora(graph, gate, this.#loraInputOf(place, first, x), stack, changed);
      return bases.map((base) => updated[changed.indexOf(base)] ?? base);
    }
    const updates = names.map((name, index): LoraUpdate | undefined => {
      if (!this.#lora.has(name)) return undefined;
      const [inFeatures, outFeatures] = [x, bases[index] as Value].map(({ shape }) => shape[shape.length - 1] as Dim);
      const rank = `rank.${name}`;
      return {
        input: this.#loraInputOf(place, name as LoraTarget, x),
        a: graph.input(DECODER_IO.loraA(layer, name), "float32", [rank, inFeatures as Dim]),
        b: graph.input(DECODER_IO.loraB(layer, name), "float32", [outFeatures as Dim, rank]),
      };
    });
    return addLora(graph, gate, bases, updates);
  }

  /** Adds the LoRA updates of projections whose outputs lie side by side. */
  #adaptJoined(place: Place, x: Value, joined: Value, names: readonly string[]): Value {
    const { layer, gate } = place;
    const targets = names.filter((name): name is LoraTarget => this.#lora.has(name));
    const [first] = targets;
    if (gate === undefined || first === undefined) return joined;
    const stack = this.#trainedLora?.(layer, targets, names as LoraTarget[]) as StackedLora;
    return addStackedLora(this.graph, gate, this.#loraInputOf(place, first, x), stack, [joined])[0] as Value;
  }

  /** What the LoRA of a projection reads; the same for all projections of one input. */
  #loraInputOf({ layer, picks }: Place, target: LoraTarget, x: Value): Value {
    return this.#loraInput?.(layer, target, x, picks?.rows) ?? x;
  }

  #norm(x: Value, name: string): Value {
    return rmsNorm(this.graph, x, this.#normWeight(name), this.#config.normEpsilon);
  }

  /** The sum of two branches and its norm, in a pass that stands alone as one kernel. */
  #addAndNorm(a: Value, b: Value, name: string): { normed: Value; sum: Value } {
    const { graph } = this;
    const weight = this.#normWeight(name);
    if (!this.#cached) return skipRmsNorm(graph, a, b, weight, this.#config.normEpsilon);
    const sum = add(graph, a, b);
    return { normed: rmsNorm(graph, sum, weight, this.#config.normEpsilon), sum };
  }

  #normWeight(name: string): Value {
    const { graph } = this;
    const weight = this.#weights.vector(graph, `${name}.weight`);
    const { normOffset } = this.#config;
    return normOffset === 0 ? weight : add(graph, weight, graph.floats([normOffset]));
  }

  #headNorm(x: Value, layer: number, name: string, heads: number): Value {
    if (!this.#config.headNorms) return x;
    const { headDim } = this.#config;
    const perHead = reshape(this.graph, x, [this.#dims.batch, this.#dims.seq, heads, headDim]);
    const normed = cast(
      this.graph,
      this.#norm(this.#widen(perHead), `model.layers.${layer}.self_attn.${name}`),
      x.dtype,
    );
    return reshape(this.graph, normed, [this.#dims.batch, this.#dims.seq, heads * headDim]);
  }

  #rotate(x: Value, type: LayerType, heads: number, factor: number = 1): Value {
    const [cos, sin] = [this.#cos.get(type) as Value, this.#sin.get(type) as Value].map((table) =>
      factor === 1 ? table : scale(this.graph, table, factor),
    );
    return rotary(this.graph, x, cos as Value, sin as Value, heads);
  }

  #average(rows: Value): Value {
    return this.#averaging === undefined ? rows : matmul(this.graph, this.#averaging, rows);
  }

  #headName(): string {
    // A quantised copy has a head matrix of its own; stored weights share the embedding table.
    return this.#config.tiedHead && !this.#weights.quantized ? "model.embed_tokens" : "lm_head";
  }

  #cap(logits: Value): Value {
    const { logitSoftcap } = this.#config;
    return logitSoftcap === undefined ? logits : softcap(this.graph, logits, logitSoftcap);
  }

  #tap(name: string, value: Value): void {
    if (!this.#taps.has(name)) return;
    this.graph.output(value, name);
    this.#unknownTaps.delete(name);
  }

  #refuseUnknownTaps(): void {
    const [unknown] = this.#unknownTaps;
    if (unknown === undefined) return;
    throw new PrecisError("OPTION_INVALID", `The decoder has no inner tensor "${unknown}".`, {
      value: unknown,
      nextStep: `Use hidden.N (0 to ${this.#config.layerCount}), queries.N, attention.N or attention_mean.N (0 to ${this.#config.layerCount - 1}).`,
    });
  }
}
