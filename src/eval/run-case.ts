/** @file One case under one method: the context goes in step by step, and questions are put along the way. */
import type { LanguageModel } from "../runtime/model.js";
import type { Likelihoods } from "../runtime/protocol.js";
import { sizeOf, type EvaluationCase, type Observation, type Question } from "./case.js";
import type { MethodSpec } from "./method-spec.js";
import { argmax } from "./metrics.js";

/** What a run needs besides the case. */
export interface CaseRun {
  model: LanguageModel;
  spec: MethodSpec;
  /** Put before a question that no context precedes. */
  bosId: number | undefined;
  signal?: AbortSignal;
}

/**
 * Runs a case. The context is read once, whatever the number of questions, since questions leave a memory unchanged; and
 * the questions of a step are read together.
 * @param context the steps to remember, if not the case's own
 */
export async function runCase(
  { model, spec, bosId, signal }: CaseRun,
  evaluated: EvaluationCase,
  context: EvaluationCase["steps"] = evaluated.steps,
): Promise<Observation[]> {
  await using memory = await model.createMemory(spec.memory);
  const { stratum, cluster, probes } = evaluated;
  const observations: Observation[] = [];
  // Without memory the same question has the same answer at every step.
  const answered = new Map<Question, Likelihoods>();
  let [taken, contextTokens, slots] = [0, 0, 0];
  for (const { step, questions, point = step } of probes) {
    for (; taken < Math.min(step, context.length); taken++) {
      const ids = context[taken] as readonly number[];
      ({ slots } = await memory.append(ids, { signal }));
      contextTokens += ids.length;
    }
    const isEmpty = slots === 0;
    const open = questions.filter((question) => !isEmpty || !answered.has(question));
    const begin = isEmpty && bosId !== undefined ? [bosId] : [];
    const asked = open.map(({ input, target, options }) => ({
      input: [...begin, ...input],
      continuations: options ?? [target],
    }));
    const found = asked.length === 0 ? [] : await memory.likelihoods(asked, { signal });
    for (const [index, question] of open.entries()) answered.set(question, found[index] as Likelihoods);
    for (const question of questions) {
      const { logProbabilities, peakSlots } = answered.get(question) as Likelihoods;
      const size = sizeOf({ slots, peakSlots, contextTokens }, model.info.bytesPerSlot);
      observations.push({ step: point, stratum, cluster, memory: size, ...judge(question, logProbabilities) });
    }
  }
  return observations;
}

type Answer = Pick<Observation, "nll" | "tokens" | "correct" | "absoluteError">;

/** What log-probabilities of the target, or of each option, say about a question. */
function judge(question: Question, logProbabilities: readonly number[]): Answer {
  const { target, options, answerIndex, values, scoring = "mean" } = question;
  if (options === undefined || answerIndex === undefined) {
    return { nll: -(logProbabilities[0] as number), tokens: target.length };
  }
  const lengths = options.map(({ length }) => (scoring === "mean" ? length : 1));
  const chosen = argmax(logProbabilities.map((sum, index) => sum / (lengths[index] as number)));
  const [given, right] = [values?.[chosen], values?.[answerIndex]];
  return {
    correct: chosen === answerIndex,
    ...(given !== undefined && right !== undefined && { absoluteError: Math.abs(given - right) }),
  };
}
