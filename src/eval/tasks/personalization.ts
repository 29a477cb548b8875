/** @file Personalisation: questions about a user never trained on, after 1 to 16 entries of the user's profile. */
import { SeededRandom } from "../../data/random.js";
import type { Demonstration, ProfileRecord } from "../../data/records.js";
import { demonstrationEpisode, type Question as AskedQuestion } from "../../data/settings/demonstrations.js";
import { listSources, loadSource, type Source } from "../../data/sources.js";
import { throwIfAborted } from "../../weights/files.js";
import { questionLength, type EvaluationCase, type Question } from "../case.js";
import { withoutEnd } from "./conversation.js";
import { MAX_STEP_TOKENS, type CaseOptions, type CaseTask } from "./task.js";
import { haveSameOptions, withUnseenOptions } from "./unseen-options.js";

/**
 * A case is a profile with its own question and, if more are asked for, others about what the user's other records say.
 * Labels, the same for all records, are chosen among by their probability, and answers of other users by mean
 * log-probability per token. If options are numbers, the distance of the chosen one counts as well; without options the
 * perplexity of the answer is measured.
 */
export const personalizationTask: CaseTask = {
  name: "personalization",
  setting: "personal",
  defaultSteps: [1, 2, 4, 8, 16],
  defaultLimit: 60,
  primary: "accuracy",
  shuffleAcrossStrata: false,
  async buildCases(options) {
    const cases: EvaluationCase[] = [];
    for (const found of await listSources(options.dataDir, { includeResearchOnly: true, only: options.only })) {
      throwIfAborted(options.signal, "The evaluation");
      if (found.setting !== "personal") continue;
      const source = found as Source<"personal">;
      const { records: loaded } = await loadSource(source, "test");
      const scoring = haveSameOptions(loaded) ? "sum" : "mean";
      const records = scoring === "sum" ? loaded : await withUnseenOptions(source, loaded, options.seed);
      const shuffled = new SeededRandom(options.seed, "evaluation", source.name).shuffle(records);
      const made = shuffled
        .slice(0, options.limit)
        .map((record) =>
          caseOf(record, questionsOf(record, records, options), { source: source.name, scoring }, options),
        );
      cases.push(...made.filter((candidate) => candidate !== undefined));
    }
    return cases;
  },
};

/**
 * The record's question, then what other records of the same user ask or tell, as far as the profile does not show it. What
 * they tell can only be asked where all records have the same options.
 */
function questionsOf(
  record: ProfileRecord,
  records: readonly ProfileRecord[],
  { questions, seed }: CaseOptions,
): AskedQuestion[] {
  const shown = new Set(record.profile.map(({ input }) => input));
  const found = [{ ...record.query, options: record.options }];
  shown.add(record.query.input);
  const others = records.filter((other) => other !== record && other.user === record.user);
  const offered = others.flatMap((other) => {
    const entries: readonly Demonstration[] = haveSameOptions([record, other])
      ? [other.query, ...other.profile]
      : [other.query];
    return entries.map((entry) => ({ ...entry, options: other.options }));
  });
  for (const question of new SeededRandom(seed, "questions", record.id).shuffle(offered)) {
    if (found.length >= questions) break;
    if (shown.has(question.input)) continue;
    shown.add(question.input);
    found.push(question);
  }
  return found;
}

function caseOf(
  record: ProfileRecord,
  asked: readonly AskedQuestion[],
  { source, scoring }: { source: string; scoring: Question["scoring"] },
  { pieces, steps, maxPositions }: CaseOptions,
): EvaluationCase | undefined {
  const about = { id: `${source}/${record.id}`, source, setting: "personal" as const };
  const profile = record.profile.slice(0, Math.max(...steps));
  const questions: Question[] = [];
  let profileSteps: EvaluationCase["steps"] = [];
  for (const question of asked) {
    const episode = demonstrationEpisode(pieces, about, profile, question);
    const { input, options, answerIndex } = episode;
    const values = question.options.map(Number);
    const made: Question =
      options === undefined
        ? { input, target: withoutEnd(episode.target, pieces.tokenizer.specialIds) }
        : { input, target: [], options, answerIndex, scoring, ...(values.every(Number.isFinite) && { values }) };
    if (questionLength(made) > maxPositions || answerIndex === -1) continue;
    questions.push(made);
    profileSteps = episode.steps;
  }
  if (questions.length === 0) return undefined;
  let length = Math.max(...questions.map(questionLength));
  const kept = profileSteps.findIndex(
    (step) => step.length > MAX_STEP_TOKENS || (length += step.length) > maxPositions,
  );
  return {
    id: about.id,
    stratum: source,
    cluster: record.user,
    steps: kept < 0 ? profileSteps : profileSteps.slice(0, kept),
    probes: steps.map((step) => ({ step, questions })),
  };
}
