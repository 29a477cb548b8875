/** @file Personalisation: questions about a user never trained on, after 1 to 16 entries of the user's profile. */
import { SeededRandom } from "../../data/random.js";
import type { ProfileRecord } from "../../data/records.js";
import { demonstrationEpisode } from "../../data/settings/demonstrations.js";
import { listSources, loadSource, type Source } from "../../data/sources.js";
import { throwIfAborted } from "../../weights/files.js";
import type { EvaluationCase, Question } from "../case.js";
import { withoutEnd } from "./conversation.js";
import { MAX_STEP_TOKENS, type CaseOptions, type CaseTask } from "./task.js";

/**
 * A case is a profile and its question. Options are chosen among by mean log-probability per token; if they are numbers,
 * the distance of the chosen one counts as well; without options the perplexity of the answer is measured.
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
    for (const source of await listSources(options.dataDir, { includeResearchOnly: true, only: options.only })) {
      throwIfAborted(options.signal, "The evaluation");
      if (source.setting !== "personal") continue;
      const { records } = await loadSource(source as Source<"personal">, "test");
      const shuffled = new SeededRandom(options.seed, "evaluation", source.name).shuffle(records);
      const made = shuffled.slice(0, options.limit).map((record) => caseOf(record, source.name, options));
      cases.push(...made.filter((candidate) => candidate !== undefined));
    }
    return cases;
  },
};

function caseOf(
  record: ProfileRecord,
  source: string,
  { pieces, steps, maxPositions }: CaseOptions,
): EvaluationCase | undefined {
  const id = `${source}/${record.id}`;
  const profile = record.profile.slice(0, Math.max(...steps));
  const question = { ...record.query, options: record.options };
  const episode = demonstrationEpisode(pieces, { id, source, setting: "personal" }, profile, question);
  const { input, options, answerIndex } = episode;
  const asked = input.length + Math.max(episode.target.length, ...(options ?? []).map((ids) => ids.length));
  let length = asked;
  const kept = episode.steps.findIndex(
    (step) => step.length > MAX_STEP_TOKENS || (length += step.length) > maxPositions,
  );
  if (asked > maxPositions || answerIndex === -1) return undefined;
  const values = record.options.map(Number);
  const made: Question =
    options === undefined
      ? { input, target: withoutEnd(episode.target, pieces.tokenizer.specialIds) }
      : { input, target: [], options, answerIndex, ...(values.every(Number.isFinite) && { values }) };
  return {
    id,
    stratum: source,
    cluster: record.user,
    steps: kept < 0 ? episode.steps : episode.steps.slice(0, kept),
    probes: steps.map((step) => ({ step, questions: [made] })),
  };
}
