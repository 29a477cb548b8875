/** @file The control of every memory: the same method with another sample's context. What is left of its benefit is not memory. */
import { PrecisError } from "../errors.js";
import { questionLength, type EvaluationCase } from "./case.js";
import { SHUFFLED, type MethodSpec } from "./method-spec.js";

/**
 * The context of another case that shares nothing with this one; a different one for each case, if there are enough, and
 * the same one for every method. It is cut where this case's questions would no longer fit the model behind it.
 * @throws OPTION_INVALID if there is no other case
 */
export function otherContext(
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

/** The methods with the shuffled control of each that has none among them. The method `none` has nothing to shuffle. */
export function withControls(methods: readonly MethodSpec[]): MethodSpec[] {
  const labels = new Set(methods.map(({ label }) => label));
  return methods.flatMap((spec) => {
    const label = `${spec.label},${SHUFFLED}=true`;
    const lacks = !spec.shuffled && spec.memory.method !== "none" && !labels.has(label);
    return lacks ? [spec, { ...spec, label, shuffled: true }] : [spec];
  });
}
