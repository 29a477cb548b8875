/**
 * @file Inputs with their outputs as time steps: demonstrations of a task, or entries of a profile. Each is a user's
 * message and the assistant's answer, the form in which chat models learn from context best (see docs/results.md).
 */
import type { ChatMessage } from "../../text/chat-template.js";
import type { ChatPieces } from "../chat-pieces.js";
import type { Episode, Setting, TokenRange } from "../episode.js";
import type { Demonstration } from "../records.js";

/** What the memory is asked after the demonstrations. */
export interface Question extends Demonstration {
  /** Candidate outputs; empty if any text may be the answer. */
  options: readonly string[];
}

/** The messages of a demonstration. */
export function demonstrationMessages({ input, output }: Demonstration): ChatMessage[] {
  return [
    { role: "user", content: input },
    { role: "assistant", content: output },
  ];
}

/** Demonstrations as time steps, and a question about what they show. */
export function demonstrationEpisode(
  pieces: ChatPieces,
  about: { id: string; source: string; setting: Setting },
  demonstrations: readonly Demonstration[],
  question: Question,
): Episode {
  const context: ChatMessage[] = [];
  const answers: (TokenRange | undefined)[] = [];
  const steps = demonstrations.map((demonstration) => {
    const messages = demonstrationMessages(demonstration);
    const ids = pieces.step(messages, context);
    answers.push(lastOccurrence(ids, pieces.answer(demonstration.output, [...context, ...messages.slice(0, 1)])));
    context.push(...messages);
    return ids;
  });
  const asked = [{ role: "user", content: question.input }];
  const { options } = question;
  return {
    ...about,
    steps,
    answers,
    input: pieces.prompt(asked, context),
    target: pieces.answer(question.output, [...context, ...asked]),
    ...(options.length > 0 && {
      options: options.map((option) => pieces.answerText(option)),
      optionTexts: options,
      answerIndex: options.indexOf(question.output),
    }),
  };
}

/** Where `part` stands last in `ids`; undefined if it does not, as when a tokenizer joins it with what is around it. */
function lastOccurrence(ids: readonly number[], part: readonly number[]): TokenRange | undefined {
  for (let start = ids.length - part.length; start >= 0; start--) {
    if (part.every((id, index) => ids[start + index] === id)) return { start, end: start + part.length };
  }
  return undefined;
}
