/**
 * @file The dialogues of `npm run train:tiny`: somebody says what they bought, where they go or when they meet, and asks for
 * it later. Made from word lists and a seed; `examples/tiny` holds what {@link tinyDialogues} returns.
 */
import { SeededRandom } from "../../data/random.js";

/** Parts of the data. No pair of words occurs in more than one. */
export const TINY_SPLITS = ["train", "dev", "test"] as const;

/** See {@link TINY_SPLITS}. */
export type TinySplit = (typeof TINY_SPLITS)[number];

/** Turns before the question, which are its memory. */
export const QUESTION_STEP = 2;

/** Something to tell and to ask about. Its value is a pair of words. */
interface Topic {
  first: readonly string[];
  second: readonly string[];
  tell: (first: string, second: string) => string;
  ask: string;
  answer: (first: string, second: string) => string;
}

const words = (text: string): string[] => text.split(" ");

const TOPICS: readonly Topic[] = [
  {
    first: words("red blue green yellow black white brown pink"),
    second: words("boat hat piano horse guitar chair bell lamp"),
    tell: (color, thing) => `I bought a ${color} ${thing}.`,
    ask: "What did I buy?",
    answer: (color, thing) => `You bought a ${color} ${thing}.`,
  },
  {
    first: words("Paris London Boston Chicago Rome Berlin Tokyo Cairo"),
    second: words("train car bus ship plane bike taxi boat"),
    tell: (city, vehicle) => `I will go to ${city} by ${vehicle}.`,
    ask: "Where will I go, and how?",
    answer: (city, vehicle) => `You will go to ${city} by ${vehicle}.`,
  },
  {
    first: words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday Christmas"),
    second: words("library park station church beach hotel theater market"),
    tell: (day, place) => `We meet on ${day} at the ${place}.`,
    ask: "When and where do we meet?",
    answer: (day, place) => `We meet on ${day} at the ${place}.`,
  },
];

const ACKNOWLEDGEMENTS = ["All right.", "Good to know.", "I see."];

/** Dialogues of each split. */
const SIZES: Readonly<Record<TinySplit, number>> = { train: 400, dev: 40, test: 80 };

/** Pairs of a topic that dev and test have to themselves; training has the others. */
const HELD_OUT_PAIRS = { dev: 8, test: 10 };

type Pair = readonly [first: string, second: string];

/** The pairs of words that a split may use for a topic. */
function pairsOf({ first, second }: Topic, index: number, split: TinySplit): Pair[] {
  const all = first.flatMap((a) => second.map((b): Pair => [a, b]));
  const shuffled = new SeededRandom("tiny", "pairs", index).shuffle(all);
  const { dev, test } = HELD_OUT_PAIRS;
  const start = { dev: 0, test: dev, train: dev + test }[split];
  return shuffled.slice(start, split === "train" ? undefined : start + { dev, test }[split]);
}

/** A turn, as JSON Lines hold it. */
interface Turn {
  role: "user" | "assistant";
  text: string;
}

/** All dialogues of a split, the same at every call, as records of JSON Lines. */
export function tinyDialogues(split: TinySplit): { id: string; split: TinySplit; turns: Turn[] }[] {
  const pools = TOPICS.map((topic, index) => pairsOf(topic, index, split));
  return Array.from({ length: SIZES[split] }, (_, number) => {
    const random = new SeededRandom("tiny", split, number);
    const index = random.between(0, TOPICS.length - 1);
    const { tell, ask, answer } = TOPICS[index] as Topic;
    const [first, second] = random.pick(pools[index] as Pair[]);
    const turns: Turn[] = [
      { role: "user", text: tell(first, second) },
      { role: "assistant", text: random.pick(ACKNOWLEDGEMENTS) },
      { role: "user", text: ask },
      { role: "assistant", text: answer(first, second) },
    ];
    return { id: `${split}-${number}`, split, turns };
  });
}
