/**
 * @file Tiny random checkpoints and adapters on disk, in the formats that the library reads: a Hugging Face model
 * folder, and a PEFT LoRA folder with comp embeddings. Both writers return what a reader of the files sees, ready for
 * the reference decoder.
 *
 * @example
 * const model = writeRandomModel(dir, { architecture: "qwen3", seed: 7 });
 * const adapter = writeRandomAdapter(join(dir, "adapter"), { ...model.options, compTokens: 2 });
 * const { logits } = decode(model, { inputIds, adapter });
 */

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { goldenDirectory, goldenFloats, readGolden } from "../golden/golden.js";
import { writeByteTokenizer } from "./byte-tokenizer.js";
import {
  normalGenerator,
  randomTensor,
  writeSafetensors,
  type NamedTensor,
  type StoredType,
} from "./random-tensors.js";

/** Families that a random checkpoint can have. All are Llama-shaped: RMS norm, rotary positions, gated SiLU. */
export type RandomArchitecture = "llama" | "mistral" | "qwen2" | "qwen3" | "phi3";

/** Sizes and numbers of a random checkpoint; every field has a default. */
export interface RandomModelOptions {
  /** Default "llama". */
  architecture?: RandomArchitecture;
  /** At least 300; default 320. */
  vocabSize?: number;
  /** Default 64. */
  hiddenSize?: number;
  /** Default 3. */
  layers?: number;
  /** Default 4. */
  queryHeads?: number;
  /** Default 2. */
  kvHeads?: number;
  /** Default `hiddenSize / queryHeads`. */
  headDim?: number;
  /** Default `2 * hiddenSize`. */
  intermediateSize?: number;
  /** Whether the head is the embedding table; default false. */
  tiedHead?: boolean;
  /** Default 10000. */
  ropeTheta?: number;
  /** `rope_scaling` of the config, for example `{rope_type: "llama3", …}`; default none. */
  ropeScaling?: Record<string, number | string>;
  /** Default 0. */
  seed?: number;
  /** How weights are stored; default float32. */
  dtype?: StoredType;
}

/** A checkpoint that {@link writeRandomModel} has written. */
export interface RandomModel {
  directory: string;
  /** The options with every default filled in. */
  options: Required<Omit<RandomModelOptions, "ropeScaling">> & Pick<RandomModelOptions, "ropeScaling">;
  /** The parsed `config.json`. */
  config: Record<string, unknown>;
  /** Weights by HF name, row-major, [out, in], as read back from the file (rounded to its dtype). */
  weights: Map<string, Float32Array>;
}

function withDefaults(options: RandomModelOptions): RandomModel["options"] {
  const hiddenSize = options.hiddenSize ?? 64;
  const queryHeads = options.queryHeads ?? 4;
  return {
    architecture: options.architecture ?? "llama",
    vocabSize: options.vocabSize ?? 320,
    hiddenSize,
    layers: options.layers ?? 3,
    queryHeads,
    kvHeads: options.kvHeads ?? 2,
    headDim: options.headDim ?? hiddenSize / queryHeads,
    intermediateSize: options.intermediateSize ?? 2 * hiddenSize,
    tiedHead: options.tiedHead ?? false,
    ropeTheta: options.ropeTheta ?? 10_000,
    ropeScaling: options.ropeScaling,
    seed: options.seed ?? 0,
    dtype: options.dtype ?? "float32",
  };
}

const CLASS_NAMES: Record<RandomArchitecture, string> = {
  llama: "LlamaForCausalLM",
  mistral: "MistralForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  phi3: "Phi3ForCausalLM",
};

function modelConfig(options: RandomModel["options"]): Record<string, unknown> {
  return {
    architectures: [CLASS_NAMES[options.architecture]],
    model_type: options.architecture,
    vocab_size: options.vocabSize,
    hidden_size: options.hiddenSize,
    intermediate_size: options.intermediateSize,
    num_hidden_layers: options.layers,
    num_attention_heads: options.queryHeads,
    num_key_value_heads: options.kvHeads,
    head_dim: options.headDim,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: options.ropeTheta,
    rope_scaling: options.ropeScaling ?? null,
    hidden_act: "silu",
    attention_bias: false,
    mlp_bias: false,
    sliding_window: null,
    tie_word_embeddings: options.tiedHead,
    torch_dtype: options.dtype,
    pad_token_id: 0,
    bos_token_id: 1,
    eos_token_id: 2,
  };
}

/** [output, input] features of the four attention projections. */
function projectionShapes(options: RandomModel["options"]): Record<string, [number, number]> {
  const query = options.queryHeads * options.headDim;
  const keyValue = options.kvHeads * options.headDim;
  const hidden = options.hiddenSize;
  return {
    q_proj: [query, hidden],
    k_proj: [keyValue, hidden],
    v_proj: [keyValue, hidden],
    o_proj: [hidden, query],
  };
}

function layerTensors(options: RandomModel["options"], layer: number, normal: () => number): Map<string, NamedTensor> {
  const { architecture, hiddenSize, intermediateSize, headDim, queryHeads, kvHeads } = options;
  const prefix = `model.layers.${layer}.`;
  const tensors = new Map<string, NamedTensor>();
  // The products keep about unit size at every hidden size, so that attention is neither uniform nor saturated.
  const scale = Math.sqrt(64 / hiddenSize);
  const matrix = (name: string, shape: number[], std: number): void => {
    tensors.set(prefix + name, randomTensor(normal, shape, std * scale));
  };
  const norm = (name: string, size: number): void => {
    tensors.set(prefix + name, randomTensor(normal, [size], 0.1, 1));
  };
  const shapes = projectionShapes(options);
  norm("input_layernorm.weight", hiddenSize);
  norm("post_attention_layernorm.weight", hiddenSize);
  if (architecture === "phi3") {
    matrix("self_attn.qkv_proj.weight", [(queryHeads + 2 * kvHeads) * headDim, hiddenSize], 0.2);
    matrix("self_attn.o_proj.weight", [...(shapes["o_proj"] as number[])], 0.2);
    matrix("mlp.gate_up_proj.weight", [2 * intermediateSize, hiddenSize], 0.15);
  } else {
    for (const [name, shape] of Object.entries(shapes)) matrix(`self_attn.${name}.weight`, shape, 0.2);
    matrix("mlp.gate_proj.weight", [intermediateSize, hiddenSize], 0.15);
    matrix("mlp.up_proj.weight", [intermediateSize, hiddenSize], 0.15);
  }
  matrix("mlp.down_proj.weight", [hiddenSize, intermediateSize], 0.15);
  if (architecture === "qwen2") {
    for (const name of ["q_proj", "k_proj", "v_proj"]) {
      tensors.set(`${prefix}self_attn.${name}.bias`, randomTensor(normal, [shapes[name]?.[0] as number], 0.3));
    }
  }
  if (architecture === "qwen3") {
    norm("self_attn.q_norm.weight", headDim);
    norm("self_attn.k_norm.weight", headDim);
  }
  return tensors;
}

/**
 * Writes a tiny random checkpoint: config.json, model.safetensors, tokenizer.json and tokenizer_config.json (bytes,
 * with a chat template; see `byte-tokenizer.ts`). The same options give the same files on every machine.
 * @param directory made if absent
 */
export function writeRandomModel(directory: string, options: RandomModelOptions = {}): RandomModel {
  const filled = withDefaults(options);
  const normal = normalGenerator(filled.seed);
  const table = [filled.vocabSize, filled.hiddenSize];
  const tensors = new Map<string, NamedTensor>();
  tensors.set("model.embed_tokens.weight", randomTensor(normal, table, 0.5));
  for (let layer = 0; layer < filled.layers; layer++) {
    for (const [name, tensor] of layerTensors(filled, layer, normal)) tensors.set(name, tensor);
  }
  tensors.set("model.norm.weight", randomTensor(normal, [filled.hiddenSize], 0.1, 1));
  if (!filled.tiedHead) tensors.set("lm_head.weight", randomTensor(normal, table, 0.3));

  mkdirSync(directory, { recursive: true });
  const config = modelConfig(filled);
  writeFileSync(join(directory, "config.json"), JSON.stringify(config, null, 2));
  writeByteTokenizer(directory, filled.vocabSize);
  const weights = writeSafetensors(join(directory, "model.safetensors"), tensors, filled.dtype);
  return { directory, options: filled, config, weights };
}

/** How a random adapter is made; the model's options say which matrices it has. */
export interface RandomAdapterOptions extends RandomModelOptions {
  /** Rank; default 8. */
  r?: number;
  /** The LoRA's output is scaled by `alpha / r`; default 16. */
  alpha?: number;
  /** COMP tokens per time step; default 2. */
  compTokens?: number;
  /** Default "concat". */
  method?: "concat" | "merge";
  /** For recurrent summaries: acts at every token, and scales summaries. Default false. */
  recurrent?: boolean;
}

/** An adapter on disk and in memory. */
export interface ReferenceAdapter {
  directory: string;
  /** alpha / r. */
  scale: number;
  r: number;
  compTokens: number;
  /** LoRA matrices by PEFT name: `….q_proj.lora_A.weight` [r, in] and `….lora_B.weight` [out, r]. */
  weights: Map<string, Float32Array>;
  /** [compTokens, hidden], row-major. */
  compEmbeddings: Float32Array;
  /** [hidden], of an adapter for recurrent summaries. */
  summaryGain?: Float32Array;
}

/** The name in a PEFT file of a LoRA matrix. */
export function adapterKey(layer: number, projection: string, matrix: "A" | "B"): string {
  return `base_model.model.model.layers.${layer}.self_attn.${projection}.lora_${matrix}.weight`;
}

interface AdapterFiles {
  r: number;
  alpha: number;
  compTokens: number;
  method: "concat" | "merge";
  tensors: Map<string, NamedTensor>;
  comp: NamedTensor;
  /** Makes it an adapter for recurrent summaries, which acts at every token. */
  gain?: NamedTensor;
}

function writeAdapter(directory: string, files: AdapterFiles): ReferenceAdapter {
  mkdirSync(directory, { recursive: true });
  const { r, alpha, compTokens, method, comp, gain } = files;
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    r,
    lora_alpha: alpha,
    lora_dropout: 0,
    bias: "none",
    target_modules: ["q_proj", "k_proj", "v_proj", "o_proj"],
    precis: gain === undefined ? { method: `ccm-${method}`, compTokens } : { method: "rmt", compTokens, gated: false },
  };
  writeFileSync(join(directory, "adapter_config.json"), JSON.stringify(config, null, 2));
  const weights = writeSafetensors(join(directory, "adapter_model.safetensors"), files.tensors);
  const rows = new Map([["comp_embeddings", comp]]);
  if (gain !== undefined) rows.set("summary_gain", gain);
  writeSafetensors(join(directory, "comp_embeddings.safetensors"), rows);
  const summaryGain = gain && { summaryGain: gain.data };
  return { directory, scale: alpha / r, r, compTokens, weights, compEmbeddings: comp.data, ...summaryGain };
}

/**
 * Writes a random adapter for the model of the same options: adapter_config.json, adapter_model.safetensors (neither
 * A nor B is zero, so that it has an effect) and comp_embeddings.safetensors, all float32.
 * @param options those of the model (spread `model.options`), and the adapter's own
 */
export function writeRandomAdapter(directory: string, options: RandomAdapterOptions = {}): ReferenceAdapter {
  const { r = 8, alpha = 16, compTokens = 2, method = "concat", recurrent = false } = options;
  const filled = withDefaults(options);
  const normal = normalGenerator(filled.seed + 0x5eed);
  const tensors = new Map<string, NamedTensor>();
  for (let layer = 0; layer < filled.layers; layer++) {
    for (const [projection, [output, input]] of Object.entries(projectionShapes(filled))) {
      tensors.set(adapterKey(layer, projection, "A"), randomTensor(normal, [r, input], 1.6 / Math.sqrt(input)));
      tensors.set(adapterKey(layer, projection, "B"), randomTensor(normal, [output, r], 0.3 / Math.sqrt(r)));
    }
  }
  const comp = randomTensor(normal, [compTokens, filled.hiddenSize], 0.5);
  const gain = recurrent ? { gain: randomTensor(normal, [filled.hiddenSize], 0.1, 0.4) } : {};
  return writeAdapter(directory, { r, alpha, compTokens, method, tensors, comp, ...gain });
}

/**
 * Writes the golden CCM adapter (r 8, alpha 16, two COMP tokens) in the same format. The SUM embeddings are left out:
 * nothing depends on them.
 * @throws Error where the golden files are not at hand
 */
export function convertGoldenAdapter(directory: string, method: "concat" | "merge" = "concat"): ReferenceAdapter {
  const golden = goldenDirectory("ccm");
  if (golden === undefined) throw new Error("The golden CCM files are not at hand");
  const source = readGolden(join(golden, "adapter.safetensors"));
  const tensors = new Map<string, NamedTensor>();
  for (const [name, { shape }] of source) {
    const match = /^layers\.(\d+)\.(\w+)\.lora_([AB])$/.exec(name);
    if (match === null) continue;
    const key = adapterKey(Number(match[1]), match[2] as string, match[3] as "A" | "B");
    tensors.set(key, { shape, data: goldenFloats(source, name) });
  }
  const comp = { shape: [2, 64], data: goldenFloats(source, "comp_embeddings").slice(0, 2 * 64) };
  return writeAdapter(directory, { r: 8, alpha: 16, compTokens: 2, method, tensors, comp });
}
