/** @file What is evaluated: contexts with questions at some of their time steps, and what came out. */
import type { MemoryStats } from "../memory/session.js";

/** A question to a memory. */
export interface Question {
  input: readonly number[];
  /** Tokens whose likelihood counts, if there are no options. */
  target: readonly number[];
  /** Candidate answers; the one with the highest mean log-probability per token is the answer given. */
  options?: readonly (readonly number[])[];
  answerIndex?: number;
  /** What the options say, if they are numbers, for the error of ratings. */
  values?: readonly number[];
}

/** Most tokens that a question and its longest answer take. */
export function questionLength({ input, target, options = [] }: Question): number {
  return input.length + Math.max(target.length, ...options.map((option) => option.length));
}

/** A context, and what is asked along its way. */
export interface EvaluationCase {
  id: string;
  /** The task or source, each of which counts the same in averages. */
  stratum: string;
  /** What is resampled as one: cases that share a context or a user. */
  cluster: string;
  steps: readonly (readonly number[])[];
  /** In the order of their steps. */
  probes: readonly { step: number; questions: readonly Question[] }[];
}

/** Sizes of a memory. */
export interface MemorySize {
  /** KV positions held per layer after the context. */
  slots: number;
  bytes: number;
  /** Most KV positions held at any moment, text being read and the question included. */
  peakSlots: number;
  peakBytes: number;
  /** Tokens of the context, which a full cache would hold. */
  contextTokens: number;
  fullBytes: number;
}

/** What one question gave. */
export interface Observation {
  step: number;
  stratum: string;
  cluster: string;
  memory: MemorySize;
  /** Sum of negative log-likelihoods of the target, for questions without options. */
  nll?: number;
  tokens?: number;
  correct?: boolean;
  absoluteError?: number;
}

/** Follows the size of a memory through a case. */
export class SizeMeter {
  readonly #bytesPerSlot: number;
  readonly #compTokens: number;
  #contextTokens = 0;
  #stats: MemoryStats | undefined;
  #peak = 0;

  constructor(bytesPerSlot: number, compTokens: number) {
    this.#bytesPerSlot = bytesPerSlot;
    this.#compTokens = compTokens;
  }

  /** Notes that a step was taken in. */
  appended(tokens: number, stats: MemoryStats): void {
    const before = this.#stats?.slots ?? 0;
    this.#contextTokens += tokens;
    this.#stats = stats;
    // Gist reads everything again; a memory that keeps nothing never reads its context at all.
    const read = stats.method === "gist" ? this.#contextTokens : before + tokens;
    if (stats.method !== "none") this.#peak = Math.max(this.#peak, read + this.#compTokens);
  }

  /** The sizes when this many tokens are asked on top. */
  size(asked: number): MemorySize {
    const slots = this.#stats?.slots ?? 0;
    const peakSlots = Math.max(this.#peak, slots + asked);
    const bytes = (count: number): number => count * this.#bytesPerSlot;
    return {
      slots,
      bytes: bytes(slots),
      peakSlots,
      peakBytes: bytes(peakSlots),
      contextTokens: this.#contextTokens,
      fullBytes: bytes(this.#contextTokens),
    };
  }
}
