/** @file Runs an evaluation: every method on the same cases. */
import { ChatPieces } from "../data/chat-pieces.js";
import { PrecisError } from "../errors.js";
import type { LanguageModel } from "../runtime/model.js";
import type { AdapterInfo } from "../runtime/protocol.js";
import { ChatTemplate } from "../text/chat-template.js";
import { Tokenizer } from "../text/tokenizer.js";
import { throwIfAborted } from "../weights/files.js";
import { questionLength, type EvaluationCase, type Observation } from "./case.js";
import type { MethodSpec } from "./method-spec.js";
import { summarize, type EvaluationResult, type MethodResult, type Observed } from "./result.js";
import { runCase } from "./run-case.js";
import { conversationTask } from "./tasks/conversation.js";
import { multiTask } from "./tasks/multi-task.js";
import { personalizationTask } from "./tasks/personalization.js";
import {
  DEFAULT_LENGTHS,
  DEFAULT_TEXTS,
  readStreams,
  runStream,
  streamCurve,
  streamObservations,
  type StreamRun,
} from "./tasks/streaming.js";
import type { CaseTask, EvaluationName } from "./tasks/task.js";

/** What to evaluate. */
export interface EvaluationOptions {
  evaluation: EvaluationName;
  model: LanguageModel;
  /** A folder or file of data; see `listSources`. */
  dataDir: string;
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
  /** Resamples for confidence intervals; default 1000. */
  replicates?: number;
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

const CASE_TASKS: readonly CaseTask[] = [conversationTask, multiTask, personalizationTask];

/**
 * Evaluates methods on held-out data.
 * @throws OPTION_INVALID if there is nothing to evaluate; what the data, the adapters and the engine throw
 *
 * @example
 * const result = await evaluate({
 *   evaluation: "conversation", model, dataDir: "data", methods: ["none", "full"].map(parseMethodSpec),
 * });
 */
export async function evaluate(options: EvaluationOptions): Promise<EvaluationResult> {
  const { model, methods, steps } = options;
  if (methods.length === 0 || steps?.length === 0) {
    throw new PrecisError("OPTION_INVALID", "There is no method or no step to evaluate.", {
      nextStep: "Name at least one of each.",
    });
  }
  const labels = methods.map(({ label }) => label);
  const twice = labels.find((label, index) => labels.indexOf(label) !== index);
  if (twice !== undefined) throw new PrecisError("OPTION_INVALID", `The method "${twice}" is given twice.`);
  // Found out now rather than after the first methods' hours.
  for (const { memory } of methods) await (await model.createMemory(memory)).dispose();
  const tokenizer = await Tokenizer.load(model.info.directory);
  const task = CASE_TASKS.find(({ name }) => name === options.evaluation);
  return task === undefined ? evaluateStreams(options, tokenizer) : evaluateCases(options, task, tokenizer);
}

async function evaluateCases(
  options: EvaluationOptions,
  task: CaseTask,
  tokenizer: Tokenizer,
): Promise<EvaluationResult> {
  const { model, dataDir, seed = 0, only, maxOptions = 12, limit = task.defaultLimit, signal } = options;
  const template = await ChatTemplate.load(model.info.directory, tokenizer);
  if (template === undefined) {
    throw new PrecisError("TEMPLATE_FAILED", "This model has no chat template.", { nextStep: "Evaluate streaming." });
  }
  const cases = await task.buildCases({
    dataDir,
    pieces: new ChatPieces(tokenizer, template),
    maxPositions: model.info.maxPositions,
    steps: ascending(options.steps ?? task.defaultSteps),
    limit,
    seed,
    only,
    maxOptions,
    signal,
  });
  if (cases.length === 0) throw nothingToDo(options, task.setting);
  const observed: Observed[] = [];
  for (const [methodIndex, spec] of options.methods.entries()) {
    const startedAt = performance.now();
    const observations: Observation[] = [];
    for (const [done, evaluated] of cases.entries()) {
      throwIfAborted(signal, "The evaluation");
      options.onProgress?.({ method: spec.label, methodIndex, done, total: cases.length });
      const context = spec.shuffled
        ? otherContext(cases, done, { acrossStrata: task.shuffleAcrossStrata, maxPositions: model.info.maxPositions })
        : undefined;
      observations.push(...(await runCase({ model, spec, bosId: tokenizer.bosId, signal }, evaluated, context)));
    }
    observed.push({ result: await describe(model, spec, startedAt), observations });
  }
  return finish(options, task.primary, countBy(cases.map(({ stratum }) => stratum)), observed);
}

async function evaluateStreams(options: EvaluationOptions, tokenizer: Tokenizer): Promise<EvaluationResult> {
  const { model, dataDir, only, limit = DEFAULT_TEXTS, signal } = options;
  const lengths = ascending(options.steps ?? DEFAULT_LENGTHS);
  const length = lengths.at(-1) as number;
  const streams = await readStreams(tokenizer, { dataDir, length, limit, only });
  if (streams.length === 0) throw nothingToDo(options, "stream");
  const observed: Observed[] = [];
  for (const [methodIndex, spec] of options.methods.entries()) {
    const startedAt = performance.now();
    const observations: Observation[] = [];
    const runs: StreamRun[] = [];
    for (const [index, stream] of streams.entries()) {
      const onProgress = (done: number): void =>
        options.onProgress?.({
          method: spec.label,
          methodIndex,
          done: index * length + done,
          total: streams.length * length,
        });
      const run = await runStream(model, spec, stream, { signal, onProgress });
      runs.push(run);
      observations.push(...streamObservations(stream, run, lengths));
    }
    const result = { ...(await describe(model, spec, startedAt)), curve: streamCurve(runs) };
    observed.push({ result, observations });
  }
  return finish(options, "perplexity", countBy(streams.map(({ title }) => title)), observed);
}

function finish(
  { evaluation, model, seed = 0, replicates }: EvaluationOptions,
  primary: EvaluationResult["primary"],
  sources: Record<string, number>,
  observed: readonly Observed[],
): EvaluationResult {
  const { directory, fingerprint, dtype, bytesPerSlot } = model.info;
  return {
    evaluation,
    model: { directory, fingerprint, dtype, bytesPerSlot },
    seed,
    primary,
    sources,
    methods: summarize(observed, { primary, seed, replicates }),
  };
}

async function describe(
  model: LanguageModel,
  { label, memory: choice, shuffled }: MethodSpec,
  startedAt: number,
): Promise<Omit<MethodResult, "points">> {
  await using memory = await model.createMemory(choice);
  const { method, options, adapter } = memory;
  return {
    label,
    method,
    options,
    shuffled,
    adapter: adapter === undefined ? null : adapterOf(adapter),
    seconds: (performance.now() - startedAt) / 1000,
  };
}

function adapterOf({ directory, fingerprint, compTokens }: AdapterInfo): NonNullable<MethodResult["adapter"]> {
  return { directory, fingerprint, compTokens };
}

/**
 * The context of another case that shares nothing with this one; a different one for each case, if there are enough. It is
 * cut where this case's questions would no longer fit the model behind it.
 */
function otherContext(
  cases: readonly EvaluationCase[],
  index: number,
  { acrossStrata, maxPositions }: { acrossStrata: boolean; maxPositions: number },
): EvaluationCase["steps"] {
  const own = cases[index] as EvaluationCase;
  const strangers = cases.filter(({ cluster }) => cluster !== own.cluster);
  const fitting = strangers.filter(({ stratum }) => (stratum === own.stratum) !== acrossStrata);
  const candidates = fitting.length > 0 ? fitting : strangers;
  const found = candidates[index % candidates.length];
  if (found === undefined) {
    throw new PrecisError("OPTION_INVALID", "There is no other case whose memory could be shuffled in.", {
      nextStep: "Evaluate more cases, or leave shuffled out.",
    });
  }
  let length = Math.max(...own.probes.flatMap(({ questions }) => questions.map(questionLength)));
  const kept = found.steps.findIndex((step) => (length += step.length) > maxPositions);
  return kept < 0 ? found.steps : found.steps.slice(0, kept);
}

function ascending(steps: readonly number[]): number[] {
  const bad = steps.find((step) => !Number.isInteger(step) || step < 0);
  if (bad === undefined) return [...new Set(steps)].sort((a, b) => a - b);
  throw new PrecisError("OPTION_INVALID", `Steps are whole numbers from 0 on, not ${bad}.`, { value: bad });
}

function countBy(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

function nothingToDo({ dataDir, evaluation }: EvaluationOptions, setting: string): PrecisError {
  return new PrecisError("OPTION_INVALID", `${dataDir} has no held-out data for ${evaluation}.`, {
    value: dataDir,
    nextStep: `Name a folder with ${setting} data that has a test part, or ask for smaller steps.`,
  });
}
