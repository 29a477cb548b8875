/** @file Runs an evaluation: every method on the same cases, spread over as many workers as there are. */
import { ChatPieces } from "../data/chat-pieces.js";
import { PrecisError } from "../errors.js";
import { ChatTemplate } from "../text/chat-template.js";
import { Tokenizer } from "../text/tokenizer.js";
import { withinBudget } from "./budget.js";
import type { Observation } from "./case.js";
import { describe, type Entry, type Evaluator, type Found } from "./entry.js";
import { journaled } from "./journal.js";
import { ascending, countBy, nothingToDo, requireData, type EvaluationOptions } from "./options.js";
import { spread } from "./pool.js";
import { summarize, type EvaluationResult } from "./result.js";
import { runCase } from "./run-case.js";
import { otherContext } from "./shuffled.js";
import { conversationTask } from "./tasks/conversation.js";
import { multiTask } from "./tasks/multi-task.js";
import { personalizationTask } from "./tasks/personalization.js";
import { recallTask } from "./tasks/recall.js";
import { evaluateGeneration } from "./tasks/sentinel-generation.js";
import { evaluateSentinel } from "./tasks/sentinel.js";
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
import { UNSHUFFLED, type CaseTask, type EvaluationName } from "./tasks/task.js";

export type { EvaluationOptions, EvaluationProgress } from "./options.js";

const EVALUATORS: Readonly<Record<EvaluationName, Evaluator>> = {
  conversation: evaluateCases(conversationTask),
  "multi-task": evaluateCases(multiTask),
  personalization: evaluateCases(personalizationTask),
  streaming: evaluateStreams,
  recall: evaluateCases(recallTask),
  sentinel: evaluateSentinel,
  "sentinel-generation": evaluateGeneration,
};

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
  if (UNSHUFFLED.includes(evaluation)) refuseShuffled(options);
  // Found out now rather than after the first methods' hours.
  const entries: Entry[] = [];
  for (const spec of methods) entries.push(await describe(model, await withinBudget(model, spec), methods));
  const tokenizer = await Tokenizer.load(model.info.directory);
  const { primary, sources, observed, floor } = await EVALUATORS[evaluation](options, entries, tokenizer);
  const { directory, fingerprint, dtype, bytesPerSlot } = model.info;
  return {
    evaluation,
    model: { directory, fingerprint, dtype, bytesPerSlot },
    seed,
    primary,
    sources,
    methods: summarize(observed, { primary, seed, replicates, floor }),
  };
}

function evaluateCases(task: CaseTask): Evaluator {
  return (options, entries, tokenizer) => runCases(task, options, entries, tokenizer);
}

async function runCases(
  task: CaseTask,
  options: EvaluationOptions,
  entries: readonly Entry[],
  tokenizer: Tokenizer,
): Promise<Found> {
  const { model, helpers = [], seed = 0, only, maxOptions = 12, questions = 1, journal, signal } = options;
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
    questions,
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

function refuseShuffled({ evaluation, methods }: EvaluationOptions): void {
  const shuffled = methods.find((spec) => spec.shuffled);
  if (shuffled === undefined) return;
  throw new PrecisError("OPTION_INVALID", "A stream of text has no memory that could be shuffled.", {
    value: shuffled.label,
    nextStep: `Leave shuffled out for ${evaluation}.`,
  });
}
