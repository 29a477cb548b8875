/** @file What an evaluation task is: which cases it makes of data, and what it measures on them. */
import type { ChatPieces } from "../../data/chat-pieces.js";
import type { Setting } from "../../data/episode.js";
import type { EvaluationCase } from "../case.js";
import type { MetricName } from "../metrics.js";

/** All evaluations. */
export const EVALUATIONS = [
  "conversation",
  "multi-task",
  "personalization",
  "streaming",
  "recall",
  "sentinel",
  "sentinel-generation",
] as const;

/** Name of an evaluation. */
export type EvaluationName = (typeof EVALUATIONS)[number];

/** Evaluations of running text, in which there is no memory of another sample to compare with. */
export const UNSHUFFLED: readonly EvaluationName[] = ["streaming", "sentinel"];

/** What cases are made of. */
export interface CaseOptions {
  /** Nothing for tasks that make their own data. */
  dataDir: string;
  pieces: ChatPieces;
  /** Most tokens of context and question; the model's limit. */
  maxPositions: number;
  /** Time steps to ask at, ascending. */
  steps: readonly number[];
  /** Most dialogues per source, questions per task, or profiles per source. */
  limit: number;
  /** Decides which ones. */
  seed: number;
  /** Only these sources or tasks. */
  only?: readonly string[];
  /** Tasks with more options are left out (multi-task). */
  maxOptions: number;
  /** Most questions about one profile (personalization). */
  questions: number;
  signal?: AbortSignal;
}

/** A task that asks questions at time steps. */
export interface CaseTask {
  name: EvaluationName;
  setting: Setting;
  /** Needs no folder of data. */
  makesData?: boolean;
  defaultSteps: readonly number[];
  defaultLimit: number;
  /** The measure that comes first in tables and plots. */
  primary: MetricName;
  /** @throws FILE_NOT_FOUND, FILE_INVALID */
  buildCases(options: CaseOptions): Promise<EvaluationCase[]>;
  /** Where the context of a case comes from when memories are shuffled: another case, and of another task if true. */
  shuffleAcrossStrata: boolean;
}

/** Longest time step in tokens; what is longer is left out, as in the paper. */
export const MAX_STEP_TOKENS = 256;
