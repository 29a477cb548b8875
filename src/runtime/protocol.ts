/** @file What crosses between the main thread and the engine's worker. Keys and values never do, but as snapshots. */
import type { MessagePort } from "node:worker_threads";
import type { SerializedError } from "../errors.js";
import type { MemoryStats } from "../memory/memory-stats.js";
import type { MemoryAttention, MemorySlot } from "../memory/slots.js";
import type { SnapshotPrecision } from "../memory/snapshot.js";
import type { ChooseSpans } from "../memory/spans/caller-spans.js";
import type { ChatMessage } from "../text/chat-template.js";
import type { ResponseFormat } from "../tools/answer-grammar.js";
import type { ToolCall, ToolChoice, ToolDefinition } from "../tools/tool.js";
import type { Device } from "./device.js";
import type { SamplingOptions, TokenLogprob } from "./sampler.js";

/** How weights are held: as the checkpoint stores them, rounded to half floats, or block-quantised. */
export type WeightDType = "fp32" | "fp16" | "int8" | "int4";

/** Text, chat messages (a time step each) or token ids. */
export type MemoryInput = string | readonly ChatMessage[] | readonly number[];

/** Options of loading that the worker needs. */
export interface EngineLoadOptions {
  dtype: WeightDType;
  device: Device | "auto";
  threads?: number;
  /** Whether idle threads wait actively. Default true. */
  spin?: boolean;
  cacheDir?: string;
  /** Keep a second form of int4 weights for long inputs. Default true. */
  fastPrefill?: boolean;
  profilePrefix?: string;
}

/** What is known of a loaded model. */
export interface ModelInfo {
  directory: string;
  family: string;
  dtype: WeightDType;
  device: Device;
  /** Digest that adapters and snapshots name. */
  fingerprint: string;
  vocabSize: number;
  hiddenSize: number;
  layerCount: number;
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  maxPositions: number;
  /** Bytes of one token's keys and values in the cache. */
  bytesPerSlot: number;
  /** Whether there is a tokenizer, and a chat template. */
  hasTokenizer: boolean;
  hasChatTemplate: boolean;
}

/** What is known of a loaded adapter. */
export interface AdapterInfo {
  directory: string;
  fingerprint: string;
  method: string | undefined;
  compTokens: number;
  gated: boolean;
  warnings: readonly string[];
}

/** How to make a memory. */
export interface CreateMemoryOptions {
  /** Name of a memory method; default: the adapter's own, else `full`. */
  method?: string;
  /** Options of the method, see `precis methods`; default: those that the adapter was trained with, if it was for it. */
  options?: Readonly<Record<string, unknown>>;
  /** Folder of an adapter; loaded once per model. */
  adapter?: string;
  /** Folder of a sentinel adapter, for ccm-concat and ccm-merge with the option `spans`. */
  spanAdapter?: string;
  /** Chooses what to compress, for the policy `caller` of spans. Called on the caller's thread. */
  spans?: ChooseSpans;
}

/** {@link CreateMemoryOptions} as they cross to the worker. */
export type MemoryRequest = Omit<CreateMemoryOptions, "spans"> & {
  /** Where a caller's function is asked for spans. */
  spanPort?: MessagePort | undefined;
};

/** A memory inside the worker. */
export interface MemoryInfo {
  id: number;
  method: string;
  options: Readonly<Record<string, unknown>>;
  adapter: AdapterInfo | undefined;
  stats: MemoryStats;
}

/** Options of a generation. */
export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to generate; default: the model's `max_new_tokens`, else 256. */
  maxTokens?: number;
  /** Texts that end the generation; they are not part of the answer. */
  stop?: readonly string[];
  /** Generate on past end-of-text tokens. */
  ignoreEos?: boolean;
  /** Whether input and answer become a time step of the memory. Default true. */
  remember?: boolean;
  /**
   * The form that the answer is held to, token by token: an answer that ends by itself parses, and validates. One that
   * ends with the reason `"length"` may be cut off anywhere. Default: any text.
   */
  responseFormat?: ResponseFormat;
  /** Functions that the answer may call. The model is told of them with messages; texts and ids must tell of them. */
  tools?: readonly ToolDefinition[];
  /** Default `"auto"`. With `"required"` or a name, the answer is held to be calls. */
  toolChoice?: ToolChoice;
  /** Whether one answer may have several calls. Default true. */
  parallelToolCalls?: boolean;
}

/** Why a generation ended; `"tool-calls"` if by itself, and functions are to be called. */
export type FinishReason = "end" | "stop-string" | "length" | "stopped" | "tool-calls";

/** What a generation yields. */
export type GenerationEvent =
  | { type: "prompt-progress"; done: number; total: number }
  | { type: "text-delta"; text: string; tokenId: number | undefined; logprob?: number; topLogprobs?: TokenLogprob[] }
  /** A call begins; its arguments follow as deltas. */
  | { type: "tool-call"; index: number; id: string; name: string }
  | { type: "tool-call-delta"; index: number; arguments: string }
  | {
      type: "finish";
      reason: FinishReason;
      /** The answer without its calls. */
      text: string;
      /** Functions to call; the arguments of the last one may be cut off unless the reason is `"tool-calls"`. */
      toolCalls: ToolCall[];
      tokenIds: number[];
      timings: { promptTokens: number; promptMs: number; generatedTokens: number; generateMs: number };
      stats: MemoryStats;
    };

/** Work in progress while a model loads. */
export interface LoadProgress {
  phase: "download" | "quantize" | "start";
  /** A file or tensor name. */
  item: string;
  done: number;
  total: number;
}

/** Logits and taps of a forward pass. */
export interface ForwardOutput {
  /** [tokens, vocab] */
  logits: Float32Array;
  tokens: number;
  vocabSize: number;
  taps: Record<string, { data: Float32Array; dims: readonly number[] }>;
  /** The ids that were run. */
  ids: number[];
}

/** An input, and token ids that may follow it; none of them is empty. */
export interface Continuations {
  input: readonly number[];
  continuations: readonly (readonly number[])[];
}

/** How likely continuations are. */
export interface Likelihoods {
  /** Per continuation the sum of the log-probabilities of its tokens, in nats. */
  logProbabilities: number[];
  /** Most KV positions that this memory has needed at once, these tokens included. */
  peakSlots: number;
}

/** A text in which each token sees what it is told to, and the tokens of it that are to be predicted. */
export interface MaskedText {
  /** Token ids; the vocabulary's size + k stands for the adapter's new token k. */
  ids: readonly number[];
  positions: readonly number[];
  /** Row-major [tokens, tokens], 1 where the row's token sees the column's; nobody sees what comes later. */
  attend: Uint8Array;
  /** Ids that are to be predicted. */
  labels: readonly number[];
  /** For each of them, the place of the token that predicts it. */
  predictors: readonly number[];
}

/** A memory's rows, per layer [kvHeads, slots, headDim], keys after RoPE. */
export interface MemoryRows {
  kvHeads: number;
  headDim: number;
  keys: Float32Array[];
  values: Float32Array[];
  positions: number[];
  kinds: string[];
}

/** Every operation of the worker: its argument, and what it answers. */
export interface EngineOperations {
  load: [argument: { directory: string; options: EngineLoadOptions }, result: ModelInfo];
  tokenize: [argument: { text: string; addSpecialTokens: boolean }, result: number[]];
  detokenize: [argument: { ids: readonly number[]; skipSpecialTokens: boolean }, result: string];
  createMemory: [argument: MemoryRequest, result: MemoryInfo];
  append: [
    argument: { memory: number; input: MemoryInput; tools?: readonly ToolDefinition[] | undefined },
    result: MemoryStats,
  ];
  generate: [argument: { memory: number; input: MemoryInput; options: GenerateOptions }, result: undefined];
  forward: [
    argument: { memory: number; input: MemoryInput; logits: "last" | "all"; taps: readonly string[] },
    result: ForwardOutput,
  ];
  score: [argument: { memory: number; input: MemoryInput }, result: Float32Array];
  likelihoods: [argument: { memory: number; asked: readonly Continuations[] }, result: Likelihoods[]];
  scoreMasked: [argument: { texts: readonly MaskedText[]; adapter: string | undefined }, result: Float32Array[]];
  peakSlots: [argument: { memory: number }, result: number];
  stats: [argument: { memory: number }, result: MemoryStats];
  slots: [argument: { memory: number }, result: MemorySlot[]];
  attention: [
    argument: { memory: number; input: MemoryInput; answer?: string | readonly number[] | undefined },
    result: MemoryAttention,
  ];
  rows: [argument: { memory: number }, result: MemoryRows];
  fork: [argument: { memory: number; spanPort?: MessagePort | undefined }, result: MemoryInfo];
  snapshot: [argument: { memory: number; precision: SnapshotPrecision; compress: boolean }, result: Uint8Array];
  restore: [
    argument: {
      memory: number | undefined;
      bytes: Uint8Array;
      adapter?: string | undefined;
      spanAdapter?: string | undefined;
      spanPort?: MessagePort | undefined;
    },
    result: MemoryInfo,
  ];
  disposeMemory: [argument: { memory: number }, result: undefined];
  dispose: [argument: undefined, result: undefined];
}

/** Name of an operation. */
export type Operation = keyof EngineOperations;

/** Main thread to worker. */
export type ToWorker =
  | { [Op in Operation]: { id: number; operation: Op; argument: EngineOperations[Op][0] } }[Operation]
  | { cancel: number; how: "abort" | "stop" };

/** Worker to main thread. */
export type FromWorker =
  | { id: number; result: unknown }
  | { id: number; error: SerializedError }
  | { id: number; event: GenerationEvent | LoadProgress | { type: "prompt-progress"; done: number; total: number } };
