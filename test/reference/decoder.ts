/**
 * @file A Llama-family decoder (llama, mistral, qwen2, qwen3, phi3) in plain float64 loops: what graphs, masks, caches
 * and adapters of the library are checked against. No ONNX, no code of `src`, no speed beyond what tests need.
 *
 * One sequence at a time. Everything is row-major: activations [seq, features], caches [kvHeads, rows, headDim].
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { goldenFloats, readGolden } from "../golden/golden.js";
import { readDecoderConfig, type DecoderConfig } from "./decoder-config.js";
import { add, average, joinRows, linear, rmsNorm, rotate, swapAxes } from "./kernels.js";
import { adapterKey, type ReferenceAdapter } from "./random-model.js";

/** A parsed config.json, and weights by HF name; a `RandomModel` is one. */
export interface DecoderModel {
  config: Record<string, unknown>;
  weights: Map<string, Float32Array>;
}

/** Keys (after RoPE) and values of one layer, [kvHeads, rows, headDim] each. */
export interface LayerCache {
  keys: Float64Array;
  values: Float64Array;
}

/** What {@link decode} runs on. */
export interface DecodeInput {
  /** [seq]; an id of vocabSize + k takes row k of the adapter's comp embeddings, zeros if there is no such row. */
  inputIds: ArrayLike<number>;
  /** [seq]; default: counted on from the rows of the past. */
  positionIds?: ArrayLike<number>;
  /** [seq, past + seq], nonzero where the row attends to the column; default causal, in the config's window. */
  attend?: ArrayLike<number>;
  /** [seq], multiplies the LoRA's output; default 1 at ids from vocabSize up. */
  gate?: ArrayLike<number>;
  adapter?: Pick<ReferenceAdapter, "scale" | "r" | "weights" | "compEmbeddings">;
  /** Earlier rows, one cache per layer. */
  past?: readonly LayerCache[];
  /** [seq, seq]: each row that has a nonzero element gets its keys (after RoPE) and values averaged over the columns. */
  averaging?: ArrayLike<number>;
}

/** What {@link decode} returns. */
export interface DecodeOutput {
  /** [seq, vocab]; of no meaning at rows that attend to nothing. */
  logits: Float64Array;
  /** The new rows of each layer, without the past. */
  cache: LayerCache[];
  /** [seq, hidden] each: embeddings, the output of every layer but the last, the final norm (as HF's hidden_states). */
  hidden: Float64Array[];
  /** Weights of each layer's attention, [queryHeads, seq, past + seq]. */
  attention: Float64Array[];
}

/** The model in an HF folder of float32 weights, read without the library's code. */
export function readDecoderModel(directory: string): DecoderModel {
  const tensors = readGolden(join(directory, "model.safetensors"));
  const weights = new Map([...tensors.keys()].map((name) => [name, goldenFloats(tensors, name)]));
  return { config: JSON.parse(readFileSync(join(directory, "config.json"), "utf8")), weights };
}

/** One run of the decoder: the model, the input with its defaults filled in, and a layer at a time. */
class Run {
  readonly config: DecoderConfig;
  readonly seq: number;
  readonly total: number;
  readonly positions: ArrayLike<number>;
  readonly attend: ArrayLike<number>;
  readonly gate: ArrayLike<number>;
  readonly model: DecoderModel;
  readonly input: DecodeInput;

  constructor(model: DecoderModel, input: DecodeInput) {
    this.model = model;
    this.input = input;
    this.config = readDecoderConfig(model.config);
    const { headDim, kvHeads, window, vocabSize } = this.config;
    const ids = input.inputIds;
    this.seq = ids.length;
    const past = (input.past?.[0]?.keys.length ?? 0) / (kvHeads * headDim);
    this.total = past + this.seq;
    this.positions = input.positionIds ?? Array.from(ids, (_, i) => past + i);
    const causal = (row: number, column: number): boolean => column <= past + row && column > past + row - window;
    const { seq, total } = this;
    const pair = (at: number): boolean => causal(Math.floor(at / total), at % total);
    this.attend = input.attend ?? Uint8Array.from({ length: seq * total }, (_, at) => (pair(at) ? 1 : 0));
    this.gate = input.gate ?? Array.from(ids, (id) => (id >= vocabSize ? 1 : 0));
    if (this.attend.length !== seq * total) throw new Error(`attend must be [${seq}, ${total}]`);
  }

  weight(name: string): Float32Array {
    const weight = this.model.weights.get(name);
    if (weight === undefined) throw new Error(`No weight ${name}`);
    return weight;
  }

  /** [seq, hidden] */
  embeddings(): Float64Array {
    const { hiddenSize, vocabSize } = this.config;
    const table = this.weight("model.embed_tokens.weight");
    const comp = this.input.adapter?.compEmbeddings ?? new Float32Array();
    const rows = Array.from(this.input.inputIds, (id) => {
      const [source, row] = id < vocabSize ? [table, id] : [comp, id - vocabSize];
      return source.subarray(row * hiddenSize, (row + 1) * hiddenSize);
    });
    const x = new Float64Array(this.seq * hiddenSize);
    rows.forEach((row, i) => x.set(row, i * hiddenSize));
    return x;
  }

  /** Rows [from, from + outputs) of a fused weight, or the whole weight of that projection. */
  matrix(prefix: string, name: string, fused: string, from: number, outputs: number, inputs: number): Float32Array {
    const whole = this.model.weights.get(`${prefix}${fused}.weight`);
    if (whole === undefined) return this.weight(`${prefix}${name}.weight`);
    return whole.subarray(from * inputs, (from + outputs) * inputs);
  }

  /** `y + gate · scale · B A x` for one projection of one layer. */
  withAdapter(y: Float64Array, x: Float64Array, layer: number, projection: string): Float64Array {
    const { adapter } = this.input;
    const a = adapter?.weights.get(adapterKey(layer, projection, "A"));
    const b = adapter?.weights.get(adapterKey(layer, projection, "B"));
    if (adapter === undefined || a === undefined || b === undefined) return y;
    const delta = linear(linear(x, a, a.length / adapter.r), b, adapter.r);
    const outputs = y.length / this.seq;
    return y.map((value, at) => value + this.gate[Math.floor(at / outputs)] * adapter.scale * delta[at]);
  }

  /** Projects to [heads, seq, headDim], with LoRA, bias and head norm where there are any; not yet rotated. */
  heads(x: Float64Array, layer: number, name: "q" | "k" | "v"): Float64Array {
    const { queryHeads, kvHeads, headDim, hiddenSize, epsilon } = this.config;
    const prefix = `model.layers.${layer}.self_attn.`;
    const count = name === "q" ? queryHeads : kvHeads;
    const from = { q: 0, k: queryHeads, v: queryHeads + kvHeads }[name] * headDim;
    const weight = this.matrix(prefix, `${name}_proj`, "qkv_proj", from, count * headDim, hiddenSize);
    const projected = linear(x, weight, hiddenSize, this.model.weights.get(`${prefix}${name}_proj.bias`));
    const adapted = this.withAdapter(projected, x, layer, `${name}_proj`);
    const norm = this.model.weights.get(`${prefix}${name}_norm.weight`);
    const normed = norm === undefined ? adapted : rmsNorm(adapted, norm, epsilon);
    return swapAxes(normed, this.seq, count, headDim);
  }

  /** Softmax weights [queryHeads, seq, total]; a row that attends to nothing is all 0. */
  attentionWeights(queries: Float64Array, keys: Float64Array): Float64Array {
    const { queryHeads, kvHeads, headDim } = this.config;
    const { seq, total, attend } = this;
    const weights = new Float64Array(queryHeads * seq * total);
    for (let h = 0; h < queryHeads; h++) {
      const keyHead = Math.floor((h * kvHeads) / queryHeads);
      for (let i = 0; i < seq; i++) {
        const row = weights.subarray((h * seq + i) * total, (h * seq + i + 1) * total).fill(-Infinity);
        for (let j = 0; j < total; j++) {
          if (!attend[i * total + j]) continue;
          let dot = 0;
          for (let d = 0; d < headDim; d++) {
            dot += queries[(h * seq + i) * headDim + d] * keys[(keyHead * total + j) * headDim + d];
          }
          row[j] = dot / Math.sqrt(headDim);
        }
        const top = row.reduce((a, b) => Math.max(a, b), -Infinity);
        const sum = row.reduce((total_, score) => total_ + Math.exp(score - top), 0);
        for (let j = 0; j < total; j++) row[j] = top === -Infinity ? 0 : Math.exp(row[j] - top) / sum;
      }
    }
    return weights;
  }

  /** Attention output before the o projection, [seq, queryHeads * headDim]. */
  mix(weights: Float64Array, values: Float64Array): Float64Array {
    const { queryHeads, kvHeads, headDim } = this.config;
    const { seq, total } = this;
    const mixed = new Float64Array(queryHeads * seq * headDim);
    for (let h = 0; h < queryHeads; h++) {
      const valueHead = Math.floor((h * kvHeads) / queryHeads);
      for (let i = 0; i < seq; i++) {
        for (let j = 0; j < total; j++) {
          const weight = weights[(h * seq + i) * total + j];
          if (weight === 0) continue;
          for (let d = 0; d < headDim; d++) {
            mixed[(h * seq + i) * headDim + d] += weight * values[(valueHead * total + j) * headDim + d];
          }
        }
      }
    }
    return swapAxes(mixed, queryHeads, seq, headDim);
  }

  attention(x: Float64Array, layer: number): { y: Float64Array; cache: LayerCache; weights: Float64Array } {
    const { kvHeads, queryHeads, headDim } = this.config;
    const { averaging, past } = this.input;
    const queries = this.heads(x, layer, "q");
    let keys = this.heads(x, layer, "k");
    let values = this.heads(x, layer, "v");
    rotate(queries, this.positions, this.config.inverseFrequencies);
    rotate(keys, this.positions, this.config.inverseFrequencies);
    if (averaging !== undefined) {
      keys = average(keys, averaging, this.seq, headDim);
      values = average(values, averaging, this.seq, headDim);
    }
    const weights = this.attentionWeights(queries, joinRows(past?.[layer]?.keys, keys, kvHeads));
    const mixed = this.mix(weights, joinRows(past?.[layer]?.values, values, kvHeads));
    const output = linear(mixed, this.weight(`model.layers.${layer}.self_attn.o_proj.weight`), queryHeads * headDim);
    return { y: this.withAdapter(output, mixed, layer, "o_proj"), cache: { keys, values }, weights };
  }

  feedForward(x: Float64Array, layer: number): Float64Array {
    const { hiddenSize: hidden, intermediateSize: inner } = this.config;
    const prefix = `model.layers.${layer}.mlp.`;
    const gate = linear(x, this.matrix(prefix, "gate_proj", "gate_up_proj", 0, inner, hidden), hidden);
    const up = linear(x, this.matrix(prefix, "up_proj", "gate_up_proj", inner, inner, hidden), hidden);
    const gated = gate.map((value, i) => (value / (1 + Math.exp(-value))) * up[i]);
    return linear(gated, this.weight(`${prefix}down_proj.weight`), inner);
  }

  decode(): DecodeOutput {
    const { layers, epsilon, hiddenSize } = this.config;
    let x = this.embeddings();
    const output: Omit<DecodeOutput, "logits"> = { cache: [], hidden: [], attention: [] };
    for (let layer = 0; layer < layers; layer++) {
      output.hidden.push(x);
      const norm = (name: string): Float64Array =>
        rmsNorm(x, this.weight(`model.layers.${layer}.${name}.weight`), epsilon);
      const { y, cache, weights } = this.attention(norm("input_layernorm"), layer);
      x = add(x, y);
      x = add(x, this.feedForward(norm("post_attention_layernorm"), layer));
      output.cache.push(cache);
      output.attention.push(weights);
    }
    x = rmsNorm(x, this.weight("model.norm.weight"), epsilon);
    output.hidden.push(x);
    const head = this.model.weights.get("lm_head.weight") ?? this.weight("model.embed_tokens.weight");
    return { logits: linear(x, head, hiddenSize), ...output };
  }
}

/** Runs the decoder on one sequence. */
export function decode(model: DecoderModel, input: DecodeInput): DecodeOutput {
  return new Run(model, input).decode();
}
