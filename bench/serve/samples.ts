/** @file Samples of a made-up task: things are described, and demonstrations tell which word goes with each. */
import type { ChatPieces } from "../../dist/data/chat-pieces.js";
import type { SeededRandom } from "../../dist/data/random.js";

/** Contexts to remember, and questions to put to any of them, as token ids. */
export interface Samples {
  /** Per context its demonstrations, a time step each. */
  contexts: number[][][];
  questions: number[][];
}

/** How many of what to make. */
export interface SampleCounts {
  contexts: number;
  demonstrations: number;
  questions: number;
}

/** Different answers within one context. */
const LABELS = 4;

/** Things that a text is about. */
const THINGS = 5;

function describe(random: Pick<SeededRandom, "sample">, words: readonly string[]): string {
  const [a, b, c, d, e] = random.sample(words, THINGS);
  return `The ${a} is next to the ${b}, the ${c} was on the ${d}, not the ${e}. Where does it go?`;
}

/**
 * Makes samples in the form in which demonstrations are evaluated: a user's message and the assistant's answer each.
 * @param pieces renders messages as the model's memories do
 * @param words what texts and answers are made of
 */
export function makeSamples(
  pieces: Pick<ChatPieces, "step" | "prompt">,
  random: Pick<SeededRandom, "sample" | "pick">,
  words: readonly string[],
  counts: SampleCounts,
): Samples {
  const asked = (): { role: "user"; content: string } => ({ role: "user", content: describe(random, words) });
  const contexts = Array.from({ length: counts.contexts }, () => {
    const labels = random.sample(words, LABELS);
    const demonstrations = Array.from({ length: counts.demonstrations }, () => [
      asked(),
      { role: "assistant", content: random.pick(labels) },
    ]);
    return demonstrations.map((messages, index) => pieces.step(messages, demonstrations.slice(0, index).flat()));
  });
  const before = [asked(), { role: "assistant", content: random.pick(words) }];
  const questions = Array.from({ length: counts.questions }, () => pieces.prompt([asked()], before));
  return { contexts, questions };
}
