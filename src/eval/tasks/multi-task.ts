/** @file Multi-task in-context learning: accuracy on tasks never trained on, after 1 to 16 demonstrations. */
import { SeededRandom } from "../../data/random.js";
import type { TaskRecord } from "../../data/records.js";
import { demonstrationEpisode } from "../../data/settings/demonstrations.js";
import { listSources, loadSource, type Source } from "../../data/sources.js";
import { throwIfAborted } from "../../weights/files.js";
import type { EvaluationCase } from "../case.js";
import { MAX_STEP_TOKENS, type CaseOptions, type CaseTask } from "./task.js";

/** Questions put to one set of demonstrations: reading them costs most, but answers to one set hang together. */
const QUESTIONS_PER_SET = 4;

/** Demonstrations drawn for each one needed, since long ones are left out. */
const SPARE = 2;

/**
 * A case is a set of demonstrations of one held-out task with a few questions; the answer is the option with the highest
 * mean log-probability per token, without the end token. Where the demonstrations would not fit the model, fewer are
 * shown.
 */
export const multiTask: CaseTask = {
  name: "multi-task",
  setting: "icl",
  defaultSteps: [1, 2, 4, 8, 16],
  defaultLimit: 40,
  primary: "accuracy",
  shuffleAcrossStrata: true,
  async buildCases(options) {
    const cases: EvaluationCase[] = [];
    for (const source of await listSources(options.dataDir, { includeResearchOnly: true, only: options.only })) {
      throwIfAborted(options.signal, "The evaluation");
      if (source.setting !== "icl") continue;
      const { records } = await loadSource(source as Source<"icl">, "test");
      const asked = records.filter(({ options: { length } }) => length > 1 && length <= options.maxOptions);
      if (asked.length > 0) cases.push(...taskCases(asked, source.name, options));
    }
    return cases;
  },
};

function taskCases(records: readonly TaskRecord[], task: string, options: CaseOptions): EvaluationCase[] {
  const cases: EvaluationCase[] = [];
  for (let asked = 0; asked < options.limit; asked += QUESTIONS_PER_SET) {
    const random = new SeededRandom(options.seed, "evaluation", task, asked);
    const count = Math.min(QUESTIONS_PER_SET, options.limit - asked);
    const drawn = random.sample(records, count + SPARE * Math.max(...options.steps));
    const made = caseOf(drawn.slice(0, count), drawn.slice(count), `${task}/${cases.length}`, task, options);
    if (made !== undefined) cases.push(made);
  }
  return cases;
}

function caseOf(
  asked: readonly TaskRecord[],
  drawn: readonly TaskRecord[],
  id: string,
  task: string,
  { pieces, steps, maxPositions }: CaseOptions,
): EvaluationCase | undefined {
  const about = { id, source: task, setting: "icl" as const };
  // A demonstration's length does not depend on its place, but for the beginning-of-text token.
  const first = drawn.slice(0, 1);
  const lengths = drawn.map((record) => {
    const [, ids = []] = demonstrationEpisode(pieces, about, [...first, record], record).steps;
    return ids.length;
  });
  const short = drawn.filter((_, index) => (lengths[index] as number) <= MAX_STEP_TOKENS);
  const demonstrations = short.slice(0, Math.max(...steps));
  const episodes = asked
    .map((question) => demonstrationEpisode(pieces, about, demonstrations, question))
    .filter(({ input, answerIndex = -1 }) => input.length <= MAX_STEP_TOKENS && answerIndex >= 0);
  const [some] = episodes;
  if (some === undefined) return undefined;
  const ends = episodes.map(({ input, options = [] }) => input.length + Math.max(...options.map((ids) => ids.length)));
  let length = Math.max(...ends);
  const kept = some.steps.findIndex((step) => (length += step.length) > maxPositions);
  const questions = episodes.map(({ input, options, answerIndex }) => ({ input, target: [], options, answerIndex }));
  return {
    id,
    stratum: task,
    cluster: id,
    steps: kept < 0 ? some.steps : some.steps.slice(0, kept),
    probes: steps.map((step) => ({ step, questions })),
  };
}
