/** @file node-llama-cpp, through its sequence API, without chat wrappers. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Llama, LlamaContext, LlamaContextSequence } from "node-llama-cpp";
import { prepareGguf } from "../weights/prepare.js";
import type { GgufQuantization } from "../weights/llama-gguf.js";
import type { Answer, Conversation, Engine, TokenIds } from "./engine.js";
import { openLlama } from "./open-llama.js";

/** How to load the model. */
export interface LlamaSettings {
  threads: number;
  quantization: GgufQuantization;
  flashAttention: boolean;
  /** Positions that the long conversation needs at most. */
  conversationSize: number;
}

type Token = Parameters<LlamaContextSequence["evaluate"]>[0][number];

/** Prompt tokens per batch; 512 measured faster than 1024. */
const BATCH_SIZE = 512;
/** Sequences and positions of the context for short prompts. */
const SEQUENCES = 8;
const SHORT_CONTEXT = 2048;

function installedVersion(): string {
  const entry = fileURLToPath(import.meta.resolve("node-llama-cpp"));
  const manifest = readFileSync(new URL("../package.json", `file://${entry}`), "utf8");
  return (JSON.parse(manifest) as { version: string }).version;
}

async function answer(sequence: LlamaContextSequence, prompt: TokenIds, count: number): Promise<Answer> {
  const tokenTimes: number[] = [];
  const startedAt = performance.now();
  for await (const _ of sequence.evaluate([...prompt] as Token[], { temperature: 0, yieldEogToken: true })) {
    tokenTimes.push(performance.now());
    if (tokenTimes.length === count) break;
  }
  return { startedAt, tokenTimes };
}

/** llama.cpp on the CPU, as node-llama-cpp ships it. */
export class LlamaEngine implements Engine {
  readonly name: string;
  readonly details: Engine["details"];
  readonly #llama: Llama;
  readonly #single: LlamaContext;
  readonly #long: LlamaContext;
  readonly #batched: LlamaContext;
  readonly #sequences = new Map<LlamaContext, LlamaContextSequence[]>();

  private constructor(
    llama: Llama,
    contexts: { single: LlamaContext; long: LlamaContext; batched: LlamaContext },
    settings: LlamaSettings,
  ) {
    this.#llama = llama;
    this.#single = contexts.single;
    this.#long = contexts.long;
    this.#batched = contexts.batched;
    this.name = settings.flashAttention ? "llama.cpp, flash attention" : "llama.cpp";
    this.details = {
      version: installedVersion(),
      release: llama.llamaCppRelease.release,
      weights: settings.quantization,
      threads: contexts.single.currentThreads,
      batchSize: BATCH_SIZE,
      flashAttention: settings.flashAttention,
      system: llama.systemInfo,
    };
  }

  static async load(settings: LlamaSettings): Promise<LlamaEngine> {
    const { threads, flashAttention, quantization, conversationSize } = settings;
    const llama = await openLlama(threads);
    const model = await llama.loadModel({ modelPath: prepareGguf(quantization) });
    const context = (contextSize: number, sequences: number): Promise<LlamaContext> =>
      model.createContext({ contextSize, sequences, threads, flashAttention, batchSize: BATCH_SIZE });
    const contexts = {
      single: await context(SHORT_CONTEXT, 1),
      batched: await context(SHORT_CONTEXT / 4, SEQUENCES),
      long: await context(conversationSize, 1),
    };
    return new LlamaEngine(llama, contexts, settings);
  }

  async generate(prompts: readonly TokenIds[], count: number): Promise<Answer[]> {
    const context = prompts.length === 1 ? this.#single : this.#batched;
    const sequences = this.#sequencesOf(context).slice(0, prompts.length);
    for (const sequence of sequences) await sequence.clearHistory();
    return Promise.all(sequences.map((sequence, index) => answer(sequence, prompts[index] as TokenIds, count)));
  }

  async converse(ids: TokenIds): Promise<Conversation> {
    const sequence = this.#sequencesOf(this.#long)[0] as LlamaContextSequence;
    await sequence.clearHistory();
    await sequence.evaluateWithoutGeneratingNewTokens([...ids] as Token[]);
    const slots = sequence.nextTokenIndex;
    return {
      slots,
      async answer(prompt, count) {
        const result = await answer(sequence, prompt, count);
        await sequence.eraseContextTokenRanges([{ start: slots, end: sequence.nextTokenIndex }]);
        return result;
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#llama.dispose();
  }

  /** The sequences of a context, made on first use and kept. */
  #sequencesOf(context: LlamaContext): LlamaContextSequence[] {
    const known = this.#sequences.get(context);
    if (known !== undefined) return known;
    const made = Array.from({ length: context.totalSequences }, () => context.getSequence());
    this.#sequences.set(context, made);
    return made;
  }
}
