/** @file Everything of one model inside the worker: weights, graph runner, tokenizer, template, identity, adapters. */
import { createHash } from "node:crypto";
import { slotBytes } from "../cache/kv-store.js";
import { PrecisError } from "../errors.js";
import type { ModelIdentity } from "../memory/snapshot.js";
import type { DecoderConfig } from "../models/config.js";
import {
  checkTensorShapes,
  columnMatrices,
  columnWeights,
  quantizationPlan,
  quantizedWeights,
  storedWeights,
  type DecoderWeights,
} from "../models/decoder-weights.js";
import { readDecoderConfig } from "../models/registry.js";
import { ChatTemplate } from "../text/chat-template.js";
import { TokenWords } from "../text/token-words.js";
import { Tokenizer } from "../text/tokenizer.js";
import { loadAdapter } from "../weights/adapter.js";
import { findNonFiniteTensor, fingerprintCheckpoint, openCheckpoint, type Checkpoint } from "../weights/checkpoint.js";
import { placeTensors } from "../weights/placement.js";
import { columnCopy } from "../weights/column-copy.js";
import { convertCheckpoint, quantizeCheckpoint } from "../weights/quantize.js";
import type { TensorEntry } from "../weights/safetensors.js";
import { TokenGrammar } from "../grammar/constraint.js";
import type { Program } from "../grammar/program.js";
import { Vocabulary } from "../grammar/vocabulary.js";
import { DecoderRunner } from "./decoder-runner.js";
import { projectionSize } from "../models/projections.js";
import { EmbeddingTable } from "./embedding-table.js";
import { LoadedAdapter } from "./loaded-adapter.js";
import type { AdapterInfo, EngineLoadOptions, LoadProgress, ModelInfo } from "./protocol.js";

/** How far loading has come, and how to stop it. */
export interface LoadHooks {
  signal: AbortSignal;
  onProgress: (progress: LoadProgress) => void;
}

/** Weights placed for the engine: one folder, and how to bring them into a graph. */
interface PlacedWeights {
  folder: string;
  weights: () => DecoderWeights;
  /** Weights for long inputs, where they have a form of their own. */
  prefillWeights?: () => DecoderWeights;
}

const EMBEDDINGS = "model.embed_tokens.weight";

async function placeWeights(
  checkpoint: Checkpoint,
  config: DecoderConfig,
  options: EngineLoadOptions,
  hooks: LoadHooks,
): Promise<PlacedWeights> {
  const derive = {
    cacheDir: options.cacheDir,
    signal: hooks.signal,
    onProgress: ({ tensor, done, total }: { tensor: string; done: number; total: number }) =>
      hooks.onProgress({ phase: "quantize", item: tensor, done, total }),
  };
  if (options.dtype === "int8" || options.dtype === "int4") {
    const bits = options.dtype === "int8" ? 8 : 4;
    const copy = await quantizeCheckpoint(checkpoint, quantizationPlan(config), { ...derive, bits });
    const { folder, tensors } = placeTensors(copy.tensors);
    const weights = (): DecoderWeights => quantizedWeights(tensors, copy.bits, copy.blockSize);
    if (options.fastPrefill === false || bits === 8 || options.device === "webgpu") return { folder, weights };
    const columns = await columnCopy(copy, columnMatrices(config), derive);
    const both = new Map([...tensors, ...placeTensors(columns).tensors]);
    return { folder, weights, prefillWeights: () => columnWeights(both, copy.blockSize) };
  }
  const plan = quantizationPlan(config);
  const needed = [...new Set([...plan.linears.flatMap(({ parts }) => parts), ...plan.kept])];
  const isHalf = needed.every((name) => checkpoint.tensors.get(name)?.dtype === "float16");
  const source =
    options.dtype === "fp16" && !isHalf
      ? (await convertCheckpoint(checkpoint, needed, "float16", derive)).tensors
      : new Map(
          needed.flatMap((name) =>
            checkpoint.tensors.has(name) ? [[name, checkpoint.tensors.get(name) as TensorEntry]] : [],
          ),
        );
  const { folder, tensors } = placeTensors(source);
  return { folder, weights: () => storedWeights(config, tensors) };
}

function rotaryDigest(config: DecoderConfig): string {
  const hash = createHash("sha256");
  for (const { inverseFrequencies, attentionFactor } of Object.values(config.rotary)) {
    hash.update(`${inverseFrequencies.join()};${attentionFactor};`);
  }
  return hash.digest("hex");
}

/** Grammars that a model keeps, the latest ones. */
const KEPT_GRAMMARS = 8;

/** A model in the worker. */
export class LoadedModel implements AsyncDisposable {
  readonly info: ModelInfo;
  readonly runner: DecoderRunner;
  readonly tokenizer: Tokenizer | undefined;
  readonly template: ChatTemplate | undefined;
  readonly generationConfig: Readonly<Record<string, unknown>>;
  /** Where words begin in token ids. */
  readonly words: TokenWords;
  readonly #rotary: string;
  readonly #grammars = new Map<string, TokenGrammar>();
  #vocabulary: Vocabulary | undefined;
  readonly #adapters = new Map<string, Promise<{ adapter: LoadedAdapter; info: AdapterInfo }>>();

  private constructor(parts: {
    info: ModelInfo;
    runner: DecoderRunner;
    tokenizer: Tokenizer | undefined;
    template: ChatTemplate | undefined;
    generationConfig: Readonly<Record<string, unknown>>;
  }) {
    this.info = parts.info;
    this.runner = parts.runner;
    this.tokenizer = parts.tokenizer;
    this.template = parts.template;
    this.words = new TokenWords(parts.tokenizer);
    this.generationConfig = parts.generationConfig;
    this.#rotary = rotaryDigest(parts.runner.config);
  }

  /** Opens, quantises if asked, and starts a model. */
  static async load(directory: string, options: EngineLoadOptions, hooks: LoadHooks): Promise<LoadedModel> {
    const checkpoint = await openCheckpoint(directory);
    const config = readDecoderConfig(checkpoint.config);
    checkTensorShapes(config, checkpoint.tensors);
    const fingerprint = await fingerprintCheckpoint(checkpoint);
    const tokenizer = await Tokenizer.load(directory).catch((error: unknown) => {
      // A model without a tokenizer can still be fed token ids.
      if (error instanceof PrecisError && error.code === "FILE_NOT_FOUND") return undefined;
      throw error;
    });
    const template = tokenizer === undefined ? undefined : await ChatTemplate.load(directory, tokenizer);
    const placed = await placeWeights(checkpoint, config, options, hooks);
    hooks.onProgress({ phase: "start", item: config.family, done: 0, total: 1 });
    const runner = new DecoderRunner({
      config,
      weights: placed.weights,
      prefillWeights: placed.prefillWeights,
      embeddings: new EmbeddingTable(checkpoint.tensors.get(EMBEDDINGS) as TensorEntry, config.embeddingScale),
      engine: {
        weightsFolder: placed.folder,
        device: options.device,
        threads: options.threads,
        spin: options.spin,
        profilePrefix: options.profilePrefix,
      },
      findBadWeight: async () => (await findNonFiniteTensor(checkpoint))?.name,
    });
    const device = await runner.start();
    hooks.onProgress({ phase: "start", item: config.family, done: 1, total: 1 });
    const info: ModelInfo = {
      directory: checkpoint.directory,
      family: config.family,
      dtype: options.dtype,
      device,
      fingerprint,
      vocabSize: config.vocabSize,
      hiddenSize: config.hiddenSize,
      layerCount: config.layerCount,
      queryHeads: config.queryHeads,
      kvHeads: config.kvHeads,
      headDim: config.headDim,
      maxPositions: config.maxPositions,
      bytesPerSlot: slotBytes(runner.shape),
      hasTokenizer: tokenizer !== undefined,
      hasChatTemplate: template !== undefined,
    };
    return new LoadedModel({ info, runner, tokenizer, template, generationConfig: checkpoint.generationConfig });
  }

  /** The adapter of a folder, loaded once. */
  adapter(directory: string): Promise<{ adapter: LoadedAdapter; info: AdapterInfo }> {
    let loading = this.#adapters.get(directory);
    if (loading === undefined) {
      loading = this.#loadAdapter(directory);
      loading.catch(() => this.#adapters.delete(directory));
      this.#adapters.set(directory, loading);
    }
    return loading;
  }

  /** What a snapshot's rows must agree with. */
  identity(adapter: LoadedAdapter | undefined, spanAdapter?: LoadedAdapter): ModelIdentity {
    return {
      model: this.info.fingerprint,
      dtype: this.info.dtype,
      tokenizer: this.tokenizer?.hash ?? "",
      template: this.template?.hash ?? "",
      rotary: this.#rotary,
      adapter: [adapter, spanAdapter].flatMap((one) => (one === undefined ? [] : [one.fingerprint])).join("+"),
    };
  }

  /** A grammar over this model's tokens; kept for the next answer that is held to the same. @param key names the grammar */
  grammar(key: string, program: () => Program): TokenGrammar {
    let grammar = this.#grammars.get(key);
    if (grammar === undefined) {
      this.#vocabulary ??= Vocabulary.of(this.tokenizer, this.info.vocabSize, this.eosIds());
      grammar = new TokenGrammar(program(), this.#vocabulary);
      const [oldest] = this.#grammars.keys();
      if (this.#grammars.size >= KEPT_GRAMMARS && oldest !== undefined) this.#grammars.delete(oldest);
    } else this.#grammars.delete(key);
    this.#grammars.set(key, grammar);
    return grammar;
  }

  /** Token ids that end a text. */
  eosIds(): ReadonlySet<number> {
    const configured = this.generationConfig["eos_token_id"];
    const ids = Array.isArray(configured) ? configured : [configured];
    const known = ids.filter((id): id is number => typeof id === "number");
    const fallback = this.tokenizer?.eosId;
    return new Set(known.length > 0 || fallback === undefined ? known : [fallback]);
  }

  async dispose(): Promise<void> {
    await this.runner.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #loadAdapter(directory: string): Promise<{ adapter: LoadedAdapter; info: AdapterInfo }> {
    const { fingerprint, hiddenSize } = this.info;
    const files = await loadAdapter(directory, { fingerprint, hiddenSize });
    const adapter = new LoadedAdapter(files);
    for (const [path, pair] of files.lora) {
      const [, layer, ...target] = path.split(".");
      const [inFeatures, outFeatures] = projectionSize(this.runner.config, target.join("."));
      if (Number(layer) < this.info.layerCount && pair.inFeatures === inFeatures && pair.outFeatures === outFeatures)
        continue;
      throw new PrecisError("ADAPTER_MISMATCH", `The adapter's "${path}" does not fit this model.`, {
        value: [pair.outFeatures, pair.inFeatures],
        nextStep: "Use the base model that the adapter was trained on.",
      });
    }
    await this.runner.enableLora(adapter.targets);
    const { gated, compTokens, method } = adapter;
    return {
      adapter,
      info: {
        directory: adapter.directory,
        fingerprint: adapter.fingerprint,
        method,
        compTokens,
        gated,
        warnings: files.warnings,
      },
    };
  }
}
