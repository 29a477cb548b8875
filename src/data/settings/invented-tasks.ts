/**
 * @file Tasks made up for one episode, beside those of the data: there are more of them than can be learned by heart, so
 * what they mean has to come from the demonstrations. Labels are random words, in or out of texts, and often unequally frequent.
 */
import type { SeededRandom } from "../random.js";
import type { Demonstration } from "../records.js";
import { labelFrequencies, labelNames } from "./label-words.js";
import type { Material } from "./material.js";
import { RANDOM_WORDS } from "./random-words.js";
import type { TaskExamples } from "./task-examples.js";

/** Labels of an invented task, at least and at most. */
const LABELS = { least: 2, most: 6 } as const;

/** Draws of a text for each one needed. */
const TRIES = 8;

/** Forms of a question about a key. */
const QUESTIONS: readonly ((key: string) => string)[] = [
  (key) => key,
  (key) => `${key}?`,
  (key) => `What goes with ${key}?`,
  (key) => `${key} is`,
  (key) => `Tell me the word for ${key}.`,
];

/** What can be said of a text by looking at it. */
const PROPERTIES: readonly ((text: string) => boolean)[] = [
  (text) => text.endsWith("?"),
  (text) => /\d/.test(text),
  (text) => text.split(" ").length > 10,
  (text) => /\b(i|my|me|we|our)\b/i.test(text),
  (text) => /\byou(r)?\b/i.test(text),
  (text) => /\bthe\b/i.test(text),
  (text) => /\b(not|no|never)\b|n't/i.test(text),
  (text) => text.includes(","),
];

type Invention = (
  material: readonly Material[],
  count: number,
  random: SeededRandom,
) => { examples: Demonstration[]; options: string[] } | undefined;

/** Which of some origins a text is from. */
const origin: Invention = (material, count, random) => {
  const origins = random.sample(material, random.between(LABELS.least, Math.min(LABELS.most, material.length)));
  const options = labelNames(origins.length, material, random);
  const weights = labelFrequencies(origins.length, random);
  return examplesOf(count, options, () => {
    const label = random.weighted(weights);
    const input = (origins[label] as Material).draw(random);
    return input === undefined ? undefined : { input, output: options[label] as string };
  });
};

/** Whether a text has a property. */
const property: Invention = (material, count, random) => {
  const holds = random.pick(PROPERTIES);
  const place = random.pick(material);
  const options = labelNames(2, material, random);
  const share = labelFrequencies(2, random)[0] as number;
  return examplesOf(count, options, () => {
    const wanted = random.chance(share);
    const input = place.draw(random);
    if (input === undefined || holds(input) !== wanted) return undefined;
    return { input, output: options[wanted ? 0 : 1] as string };
  });
};

/** Words that belong to other words, by nothing but having been said so; each question is about one that was shown. */
const lookup: Invention = (material, count, random) => {
  const options = labelNames(random.between(LABELS.least, LABELS.most), material, random);
  const keys = random.sample(RANDOM_WORDS, count + options.length).filter((key) => !options.includes(key));
  const ask = random.pick(QUESTIONS);
  const pairs = keys.slice(0, count).map((key) => ({ input: ask(key), output: random.pick(options) }));
  return { examples: [random.pick(pairs), ...pairs], options };
};

const INVENTIONS: readonly { invention: Invention; share: number }[] = [
  { invention: origin, share: 0.5 },
  { invention: property, share: 0.2 },
  { invention: lookup, share: 0.3 },
];

/**
 * `count` demonstrations of an invented task and a question.
 * @param material at least two origins of texts
 * @returns undefined if the draw came to nothing
 */
export function inventTask(
  material: readonly Material[],
  count: number,
  random: SeededRandom,
): TaskExamples | undefined {
  const { invention } = INVENTIONS[
    random.weighted(INVENTIONS.map(({ share }) => share))
  ] as (typeof INVENTIONS)[number];
  const made = invention(material, count, random);
  const [question, ...demonstrations] = made?.examples ?? [];
  if (made === undefined || question === undefined || demonstrations.length < count) return undefined;
  const isShown = demonstrations.some(({ output }) => output === question.output);
  if (!isShown) return undefined;
  return {
    id: `invented-${made.options.join("-")}`,
    demonstrations,
    question: { ...question, options: made.options },
    mustBeShown: true,
  };
}

/** A question and `count` demonstrations with different inputs. */
function examplesOf(
  count: number,
  options: string[],
  draw: () => Demonstration | undefined,
): { examples: Demonstration[]; options: string[] } {
  const examples = new Map<string, Demonstration>();
  for (let tries = 0; tries < TRIES * (count + 1) && examples.size <= count; tries++) {
    const example = draw();
    if (example !== undefined) examples.set(example.input, example);
  }
  return { examples: [...examples.values()], options };
}
