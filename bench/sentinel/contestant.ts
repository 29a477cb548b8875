/** @file A text in the making under one memory, and what its latest turn cost. */
import type { LanguageModel, Memory } from "../../dist/index.js";
import { decodeRate } from "../measure.js";
import { watchOthers } from "../quiet.js";

/** How a contestant remembers. */
export interface ContestantSpec {
  name: string;
  /** Share of the cache to do without; 0 keeps everything, without an adapter. */
  ratio: number;
  model: LanguageModel;
  /** Folder of the adapter, for shares above 0. */
  adapter: string | undefined;
}

/** What one turn measured. */
export interface Turn {
  /** Tokens of the text afterwards. */
  tokens: number;
  tokensPerSecond: number;
  slots: number;
  bytes: number;
  /** Share of all cores that other programs used meanwhile. */
  disturbance: number;
}

/** Tokens of a span: about 25 English words. */
export const SPAN_TOKENS = 33;

/** Goes on writing turn by turn. */
export class Contestant {
  readonly spec: ContestantSpec;
  readonly #memory: Memory;

  private constructor(spec: ContestantSpec, memory: Memory) {
    this.spec = spec;
    this.#memory = memory;
  }

  static async begin(spec: ContestantSpec, prompt: readonly number[]): Promise<Contestant> {
    const { model, ratio, adapter } = spec;
    const memory = await model.createMemory(
      ratio === 0
        ? { method: "full" }
        : { method: "sentinel", adapter, options: { policy: "every", ratio, span: SPAN_TOKENS } },
    );
    await memory.append(prompt);
    return new Contestant(spec, memory);
  }

  /** Reads one token and writes the others of `count`. */
  async write(start: number, count: number): Promise<Turn> {
    const others = watchOthers();
    const startedAt = performance.now();
    const tokenTimes: number[] = [];
    for await (const event of this.#memory.generate([start], {
      maxTokens: count - 1,
      temperature: 0,
      ignoreEos: true,
    })) {
      if (event.type === "text-delta" && event.tokenId !== undefined) tokenTimes.push(performance.now());
    }
    const disturbance = others();
    const { tokensSeen, slots, bytes } = await this.#memory.stats();
    return { tokens: tokensSeen, tokensPerSecond: decodeRate([{ startedAt, tokenTimes }]), slots, bytes, disturbance };
  }

  dispose(): Promise<void> {
    return this.#memory.dispose();
  }
}
