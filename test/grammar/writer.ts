/** @file Lets chance write texts under a grammar, token by token, as the engine does. */
import { Constraint, TokenGrammar } from "#precis/grammar/constraint.js";
import type { Program } from "#precis/grammar/program.js";
import { Vocabulary } from "#precis/grammar/vocabulary.js";
import { Sampler, seededRandom } from "#precis/runtime/sampler.js";
import { StreamingDetokenizer } from "#precis/text/detokenizer.js";
import { Tokenizer } from "#precis/text/tokenizer.js";

/** The end-of-text token of the embedded model. */
const END = 2;

/** Writes texts with the embedded model's vocabulary. */
export interface Writer {
  tokenizer: Tokenizer;
  vocabulary: Vocabulary;
  /** A text from random logits; those of closing characters grow, so that it ends. */
  write(program: Program, seed: number, mostTokens?: number): { text: string; complete: boolean; ids: number[] };
}

/** Opens the embedded model's tokenizer. */
export async function openWriter(): Promise<Writer> {
  const tokenizer = await Tokenizer.load("models/precis-28m");
  const vocabulary = Vocabulary.of(tokenizer, tokenizer.vocabSize, new Set([END]));
  const closing = [...Array(vocabulary.size).keys()].filter((id) => {
    const [first] = vocabulary.textOf(id) ?? [];
    return first !== undefined && '"]}'.includes(String.fromCharCode(first));
  });
  return {
    tokenizer,
    vocabulary,
    write: (program, seed, mostTokens = 600) => {
      const random = seededRandom(seed);
      const sampler = new Sampler({ temperature: 1, seed });
      const constraint = new Constraint(new TokenGrammar(program, vocabulary));
      const detokenizer = new StreamingDetokenizer(tokenizer, { skipSpecialTokens: true });
      const ids: number[] = [];
      let text = "";
      while (!constraint.mustEnd && ids.length < mostTokens) {
        const logits = Float32Array.from({ length: vocabulary.size }, () => 8 * random());
        for (const id of closing) logits[id] = (logits[id] ?? 0) + ids.length / 20;
        const more = constraint.mayEnd ? [END] : [];
        const { id } = sampler.sample(logits, { mask: constraint.allowed(), more });
        if (id === END) break;
        constraint.accept(id);
        ids.push(id);
        text += detokenizer.push(id);
      }
      return { text: text + detokenizer.flush(), complete: constraint.mayEnd, ids };
    },
  };
}
