/** @file One case under one method: the context goes in step by step, and questions are put along the way. */
import type { Memory } from "../memory/memory.js";
import type { LanguageModel } from "../runtime/model.js";
import { questionLength, SizeMeter, type EvaluationCase, type Observation, type Question } from "./case.js";
import type { MethodSpec } from "./method-spec.js";
import { argmax } from "./metrics.js";
import { optionScores, targetNll } from "./scoring.js";

/** What a run needs besides the case. */
export interface CaseRun {
  model: LanguageModel;
  spec: MethodSpec;
  /** Put before a question that no context precedes. */
  bosId: number | undefined;
  signal?: AbortSignal;
}

/**
 * Runs a case. The context is read once, whatever the number of questions, since questions leave a memory unchanged.
 * @param context the steps to remember, if not the case's own
 */
export async function runCase(
  run: CaseRun,
  evaluated: EvaluationCase,
  context: EvaluationCase["steps"] = evaluated.steps,
): Promise<Observation[]> {
  const { model, spec, signal } = run;
  await using memory = await model.createMemory(spec.memory);
  const meter = new SizeMeter(model.info.bytesPerSlot, memory.adapter?.compTokens ?? 0);
  const observations: Observation[] = [];
  // Without memory the same question has the same answer at every step.
  const answered = new Map<Question, Answer>();
  let taken = 0;
  for (const { step, questions } of evaluated.probes) {
    for (; taken < Math.min(step, context.length); taken++) {
      const ids = context[taken] as readonly number[];
      meter.appended(ids.length, await memory.append(ids, { signal }));
    }
    const isEmpty = meter.size(0).slots === 0;
    for (const question of questions) {
      const input = isEmpty && run.bosId !== undefined ? [run.bosId, ...question.input] : question.input;
      const answer = await ((isEmpty ? answered.get(question) : undefined) ??
        ask(memory, { ...question, input }, signal));
      if (isEmpty) answered.set(question, answer);
      const size = meter.size(questionLength({ ...question, input }));
      const { stratum, cluster } = evaluated;
      observations.push({ step, stratum, cluster, memory: size, ...answer });
    }
  }
  return observations;
}

type Answer = Pick<Observation, "nll" | "tokens" | "correct" | "absoluteError">;

async function ask(
  memory: Memory,
  { input, target, options, answerIndex, values }: Question,
  signal: AbortSignal | undefined,
): Promise<Answer> {
  if (options === undefined || answerIndex === undefined) {
    return { nll: await targetNll(memory, input, target, signal), tokens: target.length };
  }
  const chosen = argmax(await optionScores(memory, input, options, signal));
  const [given, right] = [values?.[chosen], values?.[answerIndex]];
  return {
    correct: chosen === answerIndex,
    ...(given !== undefined && right !== undefined && { absoluteError: Math.abs(given - right) }),
  };
}
