/**
 * @file Recall of exact facts: random pairs of a key and a value come one per time step, then one key is asked for. Made
 * from nothing but a seed, so it needs no data; what a memory keeps of it is neither style nor domain.
 */
import { demonstrationEpisode } from "../../data/settings/demonstrations.js";
import { SeededRandom } from "../../data/random.js";
import { PrecisError } from "../../errors.js";
import type { EvaluationCase, Probe } from "../case.js";
import type { CaseOptions, CaseTask } from "./task.js";

/** Whose thing it is; a case has each once. */
const KEYS: readonly string[] = (
  "Ada Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Mary Nick Olga Paul Rose Sam Tina Victor Wendy Adam " +
  "Bella Carl Diana Eric Fiona George Helen Ivan Julia Kevin Laura Mark Nora Oscar Peter Ruth Simon Tom"
).split(" ");

/** What it is; a case has each once. */
const VALUES: readonly string[] = (
  "belt bag ball bed bell bike bird boat book bottle box bread brush cake camera car cat chair clock coat cup dog door " +
  "drum desk fish flag flower guitar hat horse key lamp map mirror paper pen phone piano shoe"
).split(" ");

/** Candidate answers of a question, all of them values of the same context where it has as many: chance is one in this. */
const OPTIONS = 4;

/**
 * A case is as many pairs as the largest distance, a pair per time step; every distance is asked of the memory of all. The
 * steps of the results are distances: 1 is the latest pair.
 */
export const recallTask: CaseTask = {
  name: "recall",
  setting: "personal",
  makesData: true,
  defaultSteps: [1, 2, 4, 8, 16],
  defaultLimit: 100,
  primary: "accuracy",
  shuffleAcrossStrata: false,
  async buildCases(options) {
    const pairs = Math.max(...options.steps);
    const bad = options.steps.find((distance) => distance < 1 || distance > KEYS.length);
    if (bad !== undefined) {
      throw new PrecisError("OPTION_INVALID", `A distance of ${bad} time steps cannot be asked for.`, {
        value: bad,
        nextStep: `Give steps from 1 to ${KEYS.length}.`,
      });
    }
    return Array.from({ length: options.limit }, (_, number) => caseOf(number, pairs, options));
  },
};

function caseOf(number: number, pairs: number, { pieces, steps, seed, maxPositions }: CaseOptions): EvaluationCase {
  const id = `recall/${number}`;
  const random = new SeededRandom(seed, "evaluation", "recall", number);
  const values = random.shuffle(VALUES);
  const facts = random.sample(KEYS, pairs).map((key, index) => ({
    input: `What does ${key} have?`,
    output: `${key} has a ${values[index]}.`,
  }));
  // The last option need not be in the context if that holds fewer values than there are options.
  const possible = values.slice(0, Math.max(pairs, OPTIONS));
  const probes: Probe[] = [];
  let context: EvaluationCase["steps"] = [];
  for (const distance of steps) {
    const place = pairs - distance;
    const fact = facts[place] as (typeof facts)[number];
    const right = values[place] as string;
    const wrong = random.sample(
      possible.filter((value) => value !== right),
      OPTIONS - 1,
    );
    const options = random.shuffle([right, ...wrong]).map((value) => fact.output.replace(`a ${right}.`, `a ${value}.`));
    const about = { id, source: "recall", setting: "personal" as const };
    const episode = demonstrationEpisode(pieces, about, facts, { ...fact, options });
    context = episode.steps;
    const { input, options: candidates = [], answerIndex } = episode;
    probes.push({
      step: pairs,
      point: distance,
      questions: [{ input, target: [], options: candidates, answerIndex }],
    });
    const longest = input.length + Math.max(...candidates.map((ids) => ids.length));
    const length = context.reduce((sum, step) => sum + step.length, longest);
    if (length <= maxPositions) continue;
    throw new PrecisError("OPTION_INVALID", `${pairs} pairs take ${length} tokens, and the model ${maxPositions}.`, {
      value: pairs,
      nextStep: "Give smaller steps.",
    });
  }
  return { id, stratum: "recall", cluster: id, steps: context, probes };
}
