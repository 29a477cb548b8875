/** @file What an evaluation is asked for, and what every evaluation checks of it. */
import { PrecisError } from "../errors.js";
import type { LanguageModel } from "../runtime/model.js";
import type { Journal } from "./journal.js";
import type { MethodSpec } from "./method-spec.js";
import type { EvaluationName } from "./tasks/task.js";

/** What to evaluate. */
export interface EvaluationOptions {
  evaluation: EvaluationName;
  model: LanguageModel;
  /** More copies of the model, each in a worker of its own: cases are spread over all; results are the same. */
  helpers?: readonly LanguageModel[];
  /** A folder or file of data, see `listSources`; needed unless the evaluation makes its own. */
  dataDir?: string;
  methods: readonly MethodSpec[];
  /** Time steps, or lengths of a stream; default: those of the evaluation. */
  steps?: readonly number[];
  /** Dialogues per source, questions per task, profiles per source, or texts; default: that of the evaluation. */
  limit?: number;
  /** Default 0. */
  seed?: number;
  /** Only these sources or tasks. */
  only?: readonly string[];
  /** Tasks with more options are left out (multi-task). Default 12. */
  maxOptions?: number;
  /** Most questions about one user's profile (personalization). Default 1. */
  questions?: number;
  /** Resamples for confidence intervals; default 1000. */
  replicates?: number;
  /** Where finished cases are noted, and looked up instead of being run again. */
  journal?: Journal;
  signal?: AbortSignal;
  onProgress?: (progress: EvaluationProgress) => void;
}

/** How far an evaluation has come. */
export interface EvaluationProgress {
  method: string;
  /** Counted from 0, of `methods`. */
  methodIndex: number;
  done: number;
  total: number;
}

/**
 * The data that were named.
 * @throws OPTION_INVALID without any
 */
export function requireData({ dataDir, evaluation }: EvaluationOptions): string {
  if (dataDir !== undefined) return dataDir;
  throw new PrecisError("OPTION_INVALID", `The evaluation ${evaluation} needs data.`, {
    value: evaluation,
    nextStep: "Name its folder or file (--data DIR).",
  });
}

/**
 * Steps in order, each once.
 * @throws OPTION_INVALID unless all are whole numbers from 0 on
 */
export function ascending(steps: readonly number[]): number[] {
  const bad = steps.find((step) => !Number.isInteger(step) || step < 0);
  if (bad === undefined) return [...new Set(steps)].sort((a, b) => a - b);
  throw new PrecisError("OPTION_INVALID", `Steps are whole numbers from 0 on, not ${bad}.`, { value: bad });
}

/** How often each name occurs. */
export function countBy(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

/** What to throw when data have no held-out part of the kind that is needed. */
export function nothingToDo({ dataDir, evaluation }: EvaluationOptions, setting: string): PrecisError {
  return new PrecisError("OPTION_INVALID", `${dataDir} has no held-out data for ${evaluation}.`, {
    value: dataDir,
    nextStep: `Name a folder with ${setting} data that has a test part, or ask for smaller steps.`,
  });
}
