/** @file The most likely next tokens, for people. */
import type { LanguageModel } from "../../runtime/model.js";
import type { ForwardOutput } from "../../runtime/protocol.js";
import { logProbability } from "../../runtime/sampler.js";

/** A token that may come next. */
export interface NextToken {
  id: number;
  /** Absent for a model without a tokenizer. */
  text?: string;
  probability: number;
}

/** The `count` most likely tokens after the last one that `output` has logits of. */
export async function nextTokens(model: LanguageModel, output: ForwardOutput, count: number): Promise<NextToken[]> {
  const logits = output.logits.subarray((output.tokens - 1) * output.vocabSize);
  const ids = [...logits.keys()].sort((a, b) => (logits[b] as number) - (logits[a] as number)).slice(0, count);
  return Promise.all(
    ids.map(async (id) => ({
      id,
      ...(model.info.hasTokenizer && { text: await model.detokenize([id]) }),
      probability: Math.exp(logProbability(logits, id)),
    })),
  );
}

/** `" the" 31%, "a" 12%`. */
export function describeNextTokens(tokens: readonly NextToken[]): string {
  return tokens
    .map(({ id, text, probability }) => {
      const name = text === undefined ? String(id) : JSON.stringify(text);
      return `${name} ${probability < 0.01 ? "<1" : Math.round(100 * probability)}%`;
    })
    .join(", ");
}
