/** @file Sessions of node-llama-cpp: the state of a context sequence in a file, and the evaluation of its history. */
import { join } from "node:path";
import type { Llama, LlamaContextSequence } from "node-llama-cpp";
import { openLlama } from "../engines/open-llama.js";
import { prepareGguf } from "../weights/prepare.js";
import type { DecoderShape } from "../weights/shape.js";
import type { GgufQuantization } from "../weights/llama-gguf.js";
import { fitHistory, type Contestant, type NextToken, type SavedSession, type Session } from "./contestant.js";

type Token = Parameters<LlamaContextSequence["evaluate"]>[0][number];

/** Prompt tokens per batch; the decoding benchmark found 512 faster than 1024. */
const BATCH_SIZE = 512;

/** How llama.cpp holds and saves keys and values: half floats are its default, Q8_0 its 8-bit blocks. */
const CACHE_TYPES = { fp16: "F16", q8_0: "Q8_0" } as const;

/** Name of a cache type. */
export type CacheType = keyof typeof CACHE_TYPES;

/** How to load the model. */
export interface LlamaSettings {
  threads: number;
  shape: DecoderShape;
  quantization: GgufQuantization;
  cacheType: CacheType;
}

/** llama.cpp with the benchmark model, flash attention and one sequence. */
export class LlamaSession implements Contestant {
  readonly engine = "node-llama-cpp";
  readonly memory: string;
  readonly #llama: Llama;
  readonly #sequence: LlamaContextSequence;
  readonly #cacheType: CacheType;
  readonly #history: Token[];
  readonly #prompt: Token[];

  private constructor(llama: Llama, sequence: LlamaContextSequence, cacheType: CacheType, session: Session) {
    this.#llama = llama;
    this.#sequence = sequence;
    this.#cacheType = cacheType;
    this.memory = `full, ${cacheType} cache`;
    this.#history = [...session.history] as Token[];
    this.#prompt = [...session.prompt] as Token[];
  }

  static async load(
    { threads, shape, quantization, cacheType }: LlamaSettings,
    session: Session,
  ): Promise<LlamaSession> {
    const llama = await openLlama(threads);
    const model = await llama.loadModel({ modelPath: prepareGguf(quantization, shape) });
    const history = fitHistory(session, shape.maxPositions);
    const context = await model.createContext({
      // A whole number of cells of 256, as llama.cpp rounds to.
      contextSize: 256 * Math.ceil((history.length + session.prompt.length + 1) / 256),
      sequences: 1,
      threads,
      flashAttention: true,
      batchSize: BATCH_SIZE,
      experimentalKvCacheKeyType: CACHE_TYPES[cacheType],
      experimentalKvCacheValueType: CACHE_TYPES[cacheType],
    });
    return new LlamaSession(llama, context.getSequence(), cacheType, { ...session, history });
  }

  get tokens(): number {
    return this.#history.length;
  }

  async reread(): Promise<NextToken> {
    await this.#sequence.clearHistory();
    const startedAt = performance.now();
    await this.#sequence.evaluateWithoutGeneratingNewTokens(this.#history);
    const token = await this.#next();
    const milliseconds = performance.now() - startedAt;
    await this.#forgetPrompt();
    return { token, milliseconds };
  }

  async slots(): Promise<number> {
    return this.#sequence.nextTokenIndex;
  }

  async save(folder: string): Promise<SavedSession[]> {
    const path = join(folder, `llama-${this.#cacheType}.state`);
    const { fileSize } = await this.#sequence.saveStateToFile(path);
    return [{ format: this.#cacheType, bytes: fileSize, restore: () => this.#restore(path) }];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#llama.dispose();
  }

  async #restore(path: string): Promise<NextToken> {
    await this.#sequence.clearHistory();
    const startedAt = performance.now();
    await this.#sequence.loadStateFromFile(path, { acceptRisk: true });
    const token = await this.#next();
    return { token, milliseconds: performance.now() - startedAt };
  }

  async #next(): Promise<number> {
    for await (const token of this.#sequence.evaluate(this.#prompt, { temperature: 0, yieldEogToken: true })) {
      return token;
    }
    throw new Error("llama.cpp gave no token.");
  }

  async #forgetPrompt(): Promise<void> {
    const { nextTokenIndex: end } = this.#sequence;
    await this.#sequence.eraseContextTokenRanges([{ start: this.#history.length, end }]);
  }
}
