/** @file What is evaluated: contexts with questions at some of their time steps, and what came out. */
import type { MetricName } from "./metrics.js";

/** A question to a memory. */
export interface Question {
  input: readonly number[];
  /** Tokens whose likelihood counts, if there are no options. */
  target: readonly number[];
  /** Candidate answers; the likeliest one is the answer given. */
  options?: readonly (readonly number[])[];
  /**
   * How options are compared: by mean log-probability per token (default), which suits texts of any length; or by its sum,
   * for labels: the mean would favour "dislike" over "like", whose second token is certain once the first is said.
   */
  scoring?: "mean" | "sum";
  answerIndex?: number;
  /** What the options say, if they are numbers, for the error of ratings. */
  values?: readonly number[];
}

/** Most tokens that a question and its longest answer take. */
export function questionLength({ input, target, options = [] }: Question): number {
  return input.length + Math.max(target.length, ...options.map((option) => option.length));
}

/** Questions that are put after a time step. */
export interface Probe {
  step: number;
  questions: readonly Question[];
  /** The step that the answers count towards in results; default: the one that they are asked at. */
  point?: number;
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
  probes: readonly Probe[];
}

/** Sizes of a memory. */
export interface MemorySize {
  /** KV positions held per layer after the context. */
  slots: number;
  bytes: number;
  /** Most KV positions held at any moment, text being read and the question included. */
  peakSlots: number;
  peakBytes: number;
  /** KV positions that a token of the text sees on average, itself included, where that was counted. */
  seenSlots?: number;
  /** Tokens of the context, which a full cache would hold. */
  contextTokens: number;
  fullBytes: number;
}

/** Sizes from counts of KV positions. */
export function sizeOf(
  {
    slots,
    peakSlots,
    seenSlots,
    contextTokens,
  }: Pick<MemorySize, "slots" | "peakSlots" | "seenSlots" | "contextTokens">,
  bytesPerSlot: number,
): MemorySize {
  return {
    slots,
    bytes: slots * bytesPerSlot,
    peakSlots,
    peakBytes: peakSlots * bytesPerSlot,
    ...(seenSlots === undefined ? {} : { seenSlots }),
    contextTokens,
    fullBytes: contextTokens * bytesPerSlot,
  };
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
  /** Measures of one text, of which means are taken. */
  scores?: Readonly<Partial<Record<MetricName, number>>>;
}
