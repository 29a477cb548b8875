/**
 * @file The decoder graph of every family: embeddings, positions, bias and past rows in; logits and new rows out.
 * The past never comes back out, because the engine copies every output into JavaScript.
 */
import { PrecisError } from "../errors.js";
import { GraphBuilder, type Dim, type Value } from "../graph/builder.js";
import { attention, rotary } from "../graph/ops/attention.js";
import { add, gelu, mul, silu, softcap } from "../graph/ops/elementwise.js";
import { linear, matmul } from "../graph/ops/linalg.js";
import { gatherRows, reshape, split } from "../graph/ops/movement.js";
import { rmsNorm } from "../graph/ops/normalization.js";
import type { DecoderConfig, LayerType } from "./config.js";
import type { DecoderWeights } from "./decoder-weights.js";

/** Projections that an adapter may change, named as in checkpoints. */
export type LoraTarget = `self_attn.${string}_proj` | `mlp.${string}_proj`;

/** What a decoder graph should offer beyond plain inference. */
export interface DecoderGraphOptions {
  /** `"embeddings"` takes rows of the embedding table (and COMP embeddings); `"ids"` looks tokens up inside the graph. */
  input?: "embeddings" | "ids";
  /** Projections that get low-rank updates, fed at every run together with the per-token gate. */
  loraTargets?: readonly LoraTarget[];
  /** Takes a [batch, seq, seq] matrix that replaces keys and values, after RoPE, by averages (CCM-merge, training form). */
  averaging?: boolean;
  /** Inner tensors to return: `hidden.N` (input of layer N; N = layer count: after the last norm), `queries.N`, `attention.N`. */
  taps?: readonly string[];
}

/** Names of graph inputs and outputs; the runtime feeds and fetches by these. */
export const DECODER_IO = {
  embeddings: "embeddings",
  inputIds: "input_ids",
  logitRows: "logit_rows",
  gate: "lora_gate",
  averaging: "averaging",
  logits: "logits",
  attentionBias: (type: LayerType): string => `attention_bias.${type}`,
  rotaryCos: (type: LayerType): string => `rotary_cos.${type}`,
  rotarySin: (type: LayerType): string => `rotary_sin.${type}`,
  pastKeys: (layer: number): string => `past_keys.${layer}`,
  pastValues: (layer: number): string => `past_values.${layer}`,
  newKeys: (layer: number): string => `new_keys.${layer}`,
  newValues: (layer: number): string => `new_values.${layer}`,
  loraA: (layer: number, target: string): string => `lora_a.${layer}.${target}`,
  loraB: (layer: number, target: string): string => `lora_b.${layer}.${target}`,
} as const;

/** The type a layer is treated as: sliding only where a window is set. */
export function effectiveLayerType(config: DecoderConfig, layer: number): LayerType {
  return config.slidingWindow === undefined ? "full" : (config.layerTypes[layer] ?? "full");
}

/** The layer types that occur in a model; each has its own bias and rotary inputs. */
export function layerTypesOf(config: DecoderConfig): LayerType[] {
  return [...new Set(config.layerTypes.map((_, layer) => effectiveLayerType(config, layer)))];
}

/** Emits one decoder; a class only so that helpers share the graph, the weights and the common inputs. */
class DecoderEmitter {
  readonly graph: GraphBuilder;
  readonly #config: DecoderConfig;
  readonly #weights: DecoderWeights;
  readonly #lora: ReadonlySet<string>;
  readonly #taps: ReadonlySet<string>;
  readonly #bias = new Map<LayerType, Value>();
  readonly #cos = new Map<LayerType, Value>();
  readonly #sin = new Map<LayerType, Value>();
  readonly #gate: Value | undefined;
  readonly #averaging: Value | undefined;
  readonly #unknownTaps: Set<string>;

  constructor(config: DecoderConfig, weights: DecoderWeights, options: DecoderGraphOptions) {
    this.graph = new GraphBuilder(config.family);
    this.#config = config;
    this.#weights = weights;
    this.#lora = new Set(options.loraTargets);
    this.#taps = new Set(options.taps);
    this.#unknownTaps = new Set(options.taps);
    for (const type of layerTypesOf(config)) {
      const pairs = config.rotary[type].inverseFrequencies.length;
      const table: Dim[] = ["batch", "seq", pairs];
      this.#bias.set(
        type,
        this.graph.input(DECODER_IO.attentionBias(type), "float32", ["batch", 1, "seq", "past + seq"]),
      );
      this.#cos.set(type, this.graph.input(DECODER_IO.rotaryCos(type), "float32", table));
      this.#sin.set(type, this.graph.input(DECODER_IO.rotarySin(type), "float32", table));
    }
    if (this.#lora.size > 0) this.#gate = this.graph.input(DECODER_IO.gate, "float32", ["batch", "seq", 1]);
    if (options.averaging === true) {
      this.#averaging = this.graph.input(DECODER_IO.averaging, "float32", ["batch", "seq", "seq"]);
    }
  }

  emit(input: "embeddings" | "ids"): void {
    const { graph } = this;
    let hidden = this.#embed(input);
    for (let layer = 0; layer < this.#config.layerCount; layer++) {
      this.#tap(`hidden.${layer}`, hidden);
      hidden = graph.scope(`model.layers.${layer}`, () => this.#layer(layer, hidden));
    }
    const lastTap = `hidden.${this.#config.layerCount}`;
    if (this.#taps.has(lastTap)) this.#tap(lastTap, this.#norm(hidden, "model.norm"));
    const flat = reshape(graph, hidden, ["tokens", this.#config.hiddenSize]);
    const rows = graph.input(DECODER_IO.logitRows, "int64", ["picked"]);
    const picked = this.#norm(gatherRows(graph, flat, rows), "model.norm");
    graph.output(this.#head(picked), DECODER_IO.logits);
    this.#refuseUnknownTaps();
  }

  #embed(input: "embeddings" | "ids"): Value {
    const { graph } = this;
    if (input === "embeddings") {
      return graph.input(DECODER_IO.embeddings, "float32", ["batch", "seq", this.#config.hiddenSize]);
    }
    const ids = graph.input(DECODER_IO.inputIds, "int64", ["batch", "seq"]);
    const rows = gatherRows(graph, this.#weights.matrix(graph, "model.embed_tokens.weight"), ids);
    return this.#config.embeddingScale === 1 ? rows : mul(graph, rows, graph.floats([this.#config.embeddingScale]));
  }

  #layer(layer: number, hidden: Value): Value {
    const prefix = `model.layers.${layer}`;
    const { sandwichNorms } = this.#config;
    const attended = this.#attention(layer, this.#norm(hidden, `${prefix}.input_layernorm`));
    const afterAttention = add(
      this.graph,
      hidden,
      sandwichNorms ? this.#norm(attended, `${prefix}.post_attention_layernorm`) : attended,
    );
    const mlpNorm = sandwichNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    const fed = this.#mlp(layer, this.#norm(afterAttention, `${prefix}.${mlpNorm}`));
    return add(
      this.graph,
      afterAttention,
      sandwichNorms ? this.#norm(fed, `${prefix}.post_feedforward_layernorm`) : fed,
    );
  }

  #attention(layer: number, x: Value): Value {
    const { graph } = this;
    const { queryHeads, kvHeads, headDim, attentionScale } = this.#config;
    const type = effectiveLayerType(this.#config, layer);
    const [q, k, v] = this.#queriesKeysValues(layer, x);
    const queries = this.#rotate(this.#headNorm(q, layer, "q_norm", queryHeads), type, queryHeads);
    const keys = this.#average(this.#rotate(this.#headNorm(k, layer, "k_norm", kvHeads), type, kvHeads));
    const values = this.#average(v);
    graph.output(keys, DECODER_IO.newKeys(layer));
    graph.output(values, DECODER_IO.newValues(layer));
    this.#tap(`queries.${layer}`, queries);
    const past: Dim[] = ["batch", kvHeads, "past", headDim];
    const weightsTap = `attention.${layer}`;
    const [attended, attentionWeights] = attention(graph, {
      queries,
      keys,
      values,
      attentionBias: this.#bias.get(type) as Value,
      pastKeys: graph.input(DECODER_IO.pastKeys(layer), "float32", past),
      pastValues: graph.input(DECODER_IO.pastValues(layer), "float32", past),
      queryHeads,
      kvHeads,
      scale: attentionScale,
      returnWeights: this.#taps.has(weightsTap),
    });
    if (attentionWeights !== undefined) this.#tap(weightsTap, attentionWeights);
    return this.#project(layer, attended, "self_attn.o_proj", this.#config.outputBias);
  }

  /** [batch, seq, heads · headDim] each */
  #queriesKeysValues(layer: number, x: Value): [Value, Value, Value] {
    const { queryHeads, kvHeads, headDim, attentionBias } = this.#config;
    const sizes = [queryHeads * headDim, kvHeads * headDim, kvHeads * headDim];
    return this.#stacked(
      layer,
      x,
      "self_attn.qkv_proj",
      ["q", "k", "v"].map((p) => `self_attn.${p}_proj`),
      sizes,
      attentionBias,
    ) as [Value, Value, Value];
  }

  #mlp(layer: number, x: Value): Value {
    const { graph } = this;
    const { intermediateSize, activation, mlpBias } = this.#config;
    const names = ["mlp.gate_proj", "mlp.up_proj"];
    const [gate, up] = this.#stacked(
      layer,
      x,
      "mlp.gate_up_proj",
      names,
      [intermediateSize, intermediateSize],
      mlpBias,
    ) as [Value, Value];
    const active =
      activation === "silu" ? silu(graph, gate) : gelu(graph, gate, activation === "gelu" ? "none" : "tanh");
    return this.#project(layer, mul(graph, active, up), "mlp.down_proj", mlpBias);
  }

  /** Projections of one input: one product and a split where the weights are stacked, else one product each. */
  #stacked(
    layer: number,
    x: Value,
    stack: string,
    parts: readonly string[],
    sizes: readonly number[],
    bias: boolean,
  ): Value[] {
    if (!this.#weights.fused) return parts.map((part) => this.#project(layer, x, part, bias));
    const { graph } = this;
    // Biases and updates of the parts belong to the parts, unless the checkpoint itself stores one stacked matrix.
    const native = this.#config.fusedProjections;
    const product = this.#project(layer, x, stack, bias && native);
    return split(graph, product, sizes, -1).map((piece, index) => {
      const part = parts[index] as string;
      const biased =
        bias && !native ? add(graph, piece, this.#weights.vector(graph, `model.layers.${layer}.${part}.bias`)) : piece;
      return this.#adapt(layer, x, biased, part);
    });
  }

  #project(layer: number, x: Value, name: string, bias: boolean): Value {
    const product = this.#weights.project(this.graph, x, `model.layers.${layer}.${name}`, bias);
    return this.#adapt(layer, x, product, name);
  }

  /** base + gate · (x Aᵀ) Bᵀ, the conditional LoRA of CCM; an ordinary LoRA is the same with a gate of ones. */
  #adapt(layer: number, x: Value, base: Value, name: string): Value {
    if (!this.#lora.has(name) || this.#gate === undefined) return base;
    const { graph } = this;
    const inFeatures = x.shape[x.shape.length - 1] as Dim;
    const outFeatures = base.shape[base.shape.length - 1] as Dim;
    const rank = `rank.${name}`;
    const a = graph.input(DECODER_IO.loraA(layer, name), "float32", [rank, inFeatures]);
    const b = graph.input(DECODER_IO.loraB(layer, name), "float32", [outFeatures, rank]);
    return add(graph, base, linear(graph, mul(graph, linear(graph, x, a), this.#gate), b));
  }

  #norm(x: Value, name: string): Value {
    const { graph } = this;
    const weight = this.#weights.vector(graph, `${name}.weight`);
    const { normOffset, normEpsilon } = this.#config;
    return rmsNorm(graph, x, normOffset === 0 ? weight : add(graph, weight, graph.floats([normOffset])), normEpsilon);
  }

  #headNorm(x: Value, layer: number, name: string, heads: number): Value {
    if (!this.#config.headNorms) return x;
    const { headDim } = this.#config;
    const perHead = reshape(this.graph, x, ["batch", "seq", heads, headDim]);
    const normed = this.#norm(perHead, `model.layers.${layer}.self_attn.${name}`);
    return reshape(this.graph, normed, ["batch", "seq", heads * headDim]);
  }

  #rotate(x: Value, type: LayerType, heads: number): Value {
    return rotary(this.graph, x, this.#cos.get(type) as Value, this.#sin.get(type) as Value, heads);
  }

  #average(rows: Value): Value {
    return this.#averaging === undefined ? rows : matmul(this.graph, this.#averaging, rows);
  }

  #head(x: Value): Value {
    const { tiedHead, logitSoftcap } = this.#config;
    // A quantised copy has a head matrix of its own; stored weights share the embedding table.
    const stored = tiedHead && !this.#weights.quantized;
    const logits = this.#weights.project(this.graph, x, stored ? "model.embed_tokens" : "lm_head", false);
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
      nextStep: `Use hidden.N (0 to ${this.#config.layerCount}), queries.N or attention.N (0 to ${this.#config.layerCount - 1}).`,
    });
  }
}

/**
 * The graph of one decoder. See {@link DECODER_IO} for its inputs and outputs; all are float32 but the int64 row numbers.
 * Attention bias is [batch, 1, seq, past + seq]; past rows are [batch, kvHeads, past, headDim]; new rows come out as
 * [batch, seq, kvHeads · headDim], keys after RoPE; logits as [picked, vocab] for the rows of [batch · seq] asked for.
 */
export function buildDecoder(
  config: DecoderConfig,
  weights: DecoderWeights,
  options: DecoderGraphOptions = {},
): GraphBuilder {
  const emitter = new DecoderEmitter(config, weights, options);
  emitter.emit(options.input ?? "embeddings");
  return emitter.graph;
}
