/** @file Answers that follow a script instead of a model: logits say which token it would like to write next. */
import type { GenerateOptions, GenerationEvent } from "#precis/index.js";
import { TokenGrammar } from "#precis/grammar/constraint.js";
import { Vocabulary } from "#precis/grammar/vocabulary.js";
import { Generation } from "#precis/runtime/generation.js";
import type { LoadedModel } from "#precis/runtime/loaded-model.js";
import { Tokenizer } from "#precis/text/tokenizer.js";
import { toolSetup } from "#precis/tools/tool.js";

type Finish = Pick<Extract<GenerationEvent, { type: "finish" }>, "text" | "toolCalls"> & { reason: string | undefined };

/** Writes scripted answers with the embedded model's tokenizer. */
export interface Script {
  /** What becomes of an answer that would like to be `wish`. */
  write(wish: string, options: GenerateOptions): { finish: Finish; text: string; left: string };
  /** Tokens of a text. */
  count(text: string): number;
}

const END = 2;

/** Opens the tokenizer. */
export async function openScript(): Promise<Script> {
  const tokenizer = await Tokenizer.load("models/precis-28m");
  const vocabulary = Vocabulary.of(tokenizer, tokenizer.vocabSize, new Set([END]));
  // A generation needs no more of a model than this.
  const model = {
    tokenizer,
    generationConfig: {},
    eosIds: () => new Set([END]),
    grammar: (_: string, program: () => ConstructorParameters<typeof TokenGrammar>[0]) =>
      new TokenGrammar(program(), vocabulary),
  } as unknown as LoadedModel;
  const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });
  return {
    count: (text) => encode(text).length,
    write: (wish, options) => {
      const setup = toolSetup(options.tools, options.toolChoice, options.parallelToolCalls);
      const events: GenerationEvent[] = [];
      const session = undefined as never;
      const emit = (event: GenerationEvent): number => events.push(event);
      const generation = new Generation(model, session, [], { ...options, setup }, { requested: undefined }, emit);
      const wished = [...encode(wish), END];
      while (generation.finished === undefined) {
        const logits = new Float32Array(vocabulary.size);
        // Where it may not write what it would like to, it goes on with its wish all the same, and ends when it can.
        logits[wished[0] ?? END] = 9;
        logits[END] = Math.max(logits[END] ?? 0, 1);
        wished.shift();
        generation.accept(logits);
      }
      const text = events.map((event) => (event.type === "text-delta" ? event.text : "")).join("");
      const { finished: reason, toolCalls } = generation;
      return { finish: { reason, text: generation.text, toolCalls }, text, left: tokenizer.decode(wished) };
    },
  };
}
