/** @file Runs an evaluation: every method on the same cases, spread over as many workers as there are. */
import { ChatPieces } from "../data/chat-pieces.js";
import { PrecisError } from "../errors.js";
import type { LanguageModel } from "../runtime/model.js";
import { ChatTemplate } from "../text/chat-template.js";
import { Tokenizer } from "../text/tokenizer.js";
import { canonicalJson } from "../weights/files.js";
import { withinBudget } from "./budget.js";
import type { Observation } from "./case.js";
import { journaled, type Journal } from "./journal.js";
import type { MethodSpec } from "./method-spec.js";
import { spread } from "./pool.js";
import { summarize, type EvaluationResult, type MethodResult, type Observed } from "./result.js";
import { runCase } from "./run-case.js";
import { otherContext } from "./shuffled.js";
import { conversationTask } from "./tasks/conversation.js";
import { multiTask } from "./tasks/multi-task.js";
import { personalizationTask } from "./tasks/personalization.js";
import { recallTask } from "./tasks/recall.js";
import {
  beginnings,
  DEFAULT_LENGTHS,
  DEFAULT_TEXTS,
  readStreams,
  runStream,
  streamObservations,
  stretchesOf,
  type Stream,
  type StreamRun,
} from "./tasks/streaming.js";
import type { CaseTask, EvaluationName } from "./tasks/task.js";

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

const CASE_TASKS: readonly CaseTask[] = [conversationTask, multiTask, personalizationTask, recallTask];

/** A method, checked and described, and the working time spent on it. */
interface Entry {
  spec: MethodSpec;
  result: Observed["result"];
}

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
  const { evaluation, model, methods, steps, seed = 0, replicates } = options;
  if (methods.length === 0 || steps?.length === 0) {
    throw new PrecisError("OPTION_INVALID", "There is no method or no step to evaluate.", {
      nextStep: "Name at least one of each.",
    });
  }
  const labels = methods.map(({ label }) => label);
  const twice = labels.find((label, index) => labels.indexOf(label) !== index);
  if (twice !== undefined) throw new PrecisError("OPTION_INVALID", `The method "${twice}" is given twice.`);
  const task = CASE_TASKS.find(({ name }) => name === evaluation);
  if (task === undefined) refuseShuffledStreams(methods);
  // Found out now rather than after the first methods' hours.
  const entries: Entry[] = [];
  for (const spec of methods) entries.push(await describe(model, await withinBudget(model, spec), methods));
  const tokenizer = await Tokenizer.load(model.info.directory);
  const { primary, sources, observed } = await (task === undefined
    ? evaluateStreams(options, entries, tokenizer)
    : evaluateCases(options, entries, task, tokenizer));
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

/** What an evaluation found, before it is summed up. */
interface Found {
  primary: EvaluationResult["primary"];
  /** Cases per source or task. */
  sources: Record<string, number>;
  observed: Observed[];
}

async function evaluateCases(
  options: EvaluationOptions,
  entries: readonly Entry[],
  task: CaseTask,
  tokenizer: Tokenizer,
): Promise<Found> {
  const { model, helpers = [], seed = 0, only, maxOptions = 12, journal, signal } = options;
  const { limit = task.defaultLimit } = options;
  const template = await ChatTemplate.load(model.info.directory, tokenizer);
  if (template === undefined) {
    throw new PrecisError("TEMPLATE_FAILED", "This model has no chat template.", { nextStep: "Evaluate streaming." });
  }
  const { maxPositions } = model.info;
  const cases = await task.buildCases({
    dataDir: task.makesData === true ? "" : requireData(options),
    pieces: new ChatPieces(tokenizer, template),
    maxPositions,
    steps: ascending(options.steps ?? task.defaultSteps),
    limit,
    seed,
    only,
    maxOptions,
    signal,
  });
  if (cases.length === 0) throw nothingToDo(options, task.setting);
  const jobs = entries.flatMap((entry, methodIndex) =>
    cases.map((evaluated, index) => ({ entry, methodIndex, evaluated, index })),
  );
  const found = await spread(
    [model, ...helpers],
    jobs,
    async (worker, { entry, methodIndex, evaluated, index }, either): Promise<Observation[]> => {
      const { spec, result } = entry;
      options.onProgress?.({ method: spec.label, methodIndex, done: index, total: cases.length });
      const context = spec.shuffled
        ? otherContext(cases, index, { acrossStrata: task.shuffleAcrossStrata, maxPositions })
        : undefined;
      const run = { model: worker, spec, bosId: tokenizer.bosId, signal: either };
      const key = JSON.stringify([spec.label, evaluated.id]);
      const { value, seconds } = await journaled(journal, key, () => runCase(run, evaluated, context));
      result.seconds += seconds;
      return value;
    },
    signal,
  );
  const observed = entries.map(({ result }, index) => ({
    result,
    observations: found.slice(index * cases.length, (index + 1) * cases.length).flat(),
  }));
  return { primary: task.primary, sources: countBy(cases.map(({ stratum }) => stratum)), observed };
}

async function evaluateStreams(
  options: EvaluationOptions,
  entries: readonly Entry[],
  tokenizer: Tokenizer,
): Promise<Found> {
  const { model, helpers = [], only, limit = DEFAULT_TEXTS, journal, signal } = options;
  const lengths = ascending(options.steps ?? DEFAULT_LENGTHS);
  const length = lengths.at(-1) as number;
  const streams = await readStreams(tokenizer, { dataDir: requireData(options), length, limit, only });
  if (streams.length === 0) throw nothingToDo(options, "stream");
  const jobs = entries.flatMap((entry, methodIndex) => {
    const doneOf = streams.map(() => 0);
    const total = streams.length * length;
    const onProgress = (index: number, tokens: number): void => {
      doneOf[index] = tokens;
      const done = doneOf.reduce((sum, each) => sum + each, 0);
      options.onProgress?.({ method: entry.spec.label, methodIndex, done, total });
    };
    return streams.map((stream, index) => ({
      entry,
      stream,
      onProgress: (tokens: number): void => onProgress(index, tokens),
    }));
  });
  const runs = await spread(
    [model, ...helpers],
    jobs,
    async (worker, { entry: { spec, result }, stream, onProgress }, either): Promise<StreamRun> => {
      const key = JSON.stringify([spec.label, stream.title]);
      const work = (): Promise<StreamRun> => runStream(worker, spec, stream, { signal: either, onProgress });
      const { value, seconds } = await journaled(journal, key, work);
      result.seconds += seconds;
      return value;
    },
    signal,
  );
  const observed = entries.map(({ result }, index) => {
    const own = runs.slice(index * streams.length, (index + 1) * streams.length);
    const observe = (stretches: Parameters<typeof streamObservations>[2]): Observation[] =>
      own.flatMap((run, place) => streamObservations(streams[place] as Stream, run, stretches));
    return { result, observations: observe(beginnings(lengths)), along: observe(stretchesOf(length)) };
  });
  return { primary: "perplexity", sources: countBy(streams.map(({ title }) => title)), observed };
}

/** What will be said of a method, found out by making a memory of it. */
async function describe(model: LanguageModel, spec: MethodSpec, all: readonly MethodSpec[]): Promise<Entry> {
  await using memory = await model.createMemory(spec.memory);
  const { method, options, adapter } = memory;
  const { label, shuffled } = spec;
  const alike = ({ memory: choice, budget }: MethodSpec): string => canonicalJson({ choice, budget });
  const original = all.find(({ label: name }) => name === label) ?? spec;
  const controlled = all.find((other) => !other.shuffled && alike(other) === alike(original));
  const result: Omit<MethodResult, "points" | "curve"> = {
    label,
    method,
    options,
    shuffled,
    ...(shuffled && controlled !== undefined && { controlOf: controlled.label }),
    adapter: adapter === undefined ? null : adapterOf(adapter),
    seconds: 0,
  };
  return { spec, result };
}

function adapterOf({
  directory,
  fingerprint,
  compTokens,
}: NonNullable<MethodResult["adapter"]>): NonNullable<MethodResult["adapter"]> {
  return { directory, fingerprint, compTokens };
}

function refuseShuffledStreams(methods: readonly MethodSpec[]): void {
  const shuffled = methods.find((spec) => spec.shuffled);
  if (shuffled === undefined) return;
  throw new PrecisError("OPTION_INVALID", "A stream has no memory that could be shuffled.", {
    value: shuffled.label,
    nextStep: "Leave shuffled out for streaming.",
  });
}

function requireData({ dataDir, evaluation }: EvaluationOptions): string {
  if (dataDir !== undefined) return dataDir;
  throw new PrecisError("OPTION_INVALID", `The evaluation ${evaluation} needs data.`, {
    value: evaluation,
    nextStep: "Name its folder or file (--data DIR).",
  });
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
