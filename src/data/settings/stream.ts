/** @file Long texts in stretches of equal length; the memory of the earlier ones is to help to read the next. */
import { TokenWords } from "../../text/token-words.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { Episode } from "../episode.js";
import type { SeededRandom } from "../random.js";
import type { TextRecord } from "../records.js";

/** How a text is cut. */
export interface StreamCut {
  /** Stretches in memory, at least one. */
  steps: number;
  /** Tokens of a stretch, and of the one to be read. */
  stepTokens: number;
}

/** Tokens of the last stretch that are given; the rest of it is the target. */
const GIVEN_TOKENS = 1;

/** Characters to read so that they give enough tokens for nearly any text. */
const CHARACTERS_PER_TOKEN = 6;

/** Words of each tokenizer, as what is learned of its tokens is worth keeping. */
const wordsOf = new WeakMap<Tokenizer, TokenWords>();

/** An excerpt from a random place of a text, which begins after white space; the beginning-of-text token comes first. */
function drawExcerpt(
  tokenizer: Tokenizer,
  text: string,
  tokens: number,
  random: SeededRandom,
): { ids: number[]; start: number } | undefined {
  const drawn = random.between(0, Math.max(0, text.length - tokens * CHARACTERS_PER_TOKEN));
  const space = drawn === 0 ? -1 : text.slice(drawn, drawn + 200).search(/\s/);
  const start = drawn + space + 1;
  const begin = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  const excerpt = text.slice(start, start + tokens * CHARACTERS_PER_TOKEN);
  const ids = [...begin, ...tokenizer.encode(excerpt, { addSpecialTokens: false, allowSpecial: false })];
  return ids.length < tokens ? undefined : { ids: ids.slice(0, tokens), start };
}

/**
 * A block of a text as it is, without steps; all of it but the first token is the target.
 * @param tokens tokens of the block, the beginning-of-text token included
 * @returns undefined if the text is too short
 */
export function textBlock(
  tokenizer: Tokenizer,
  record: TextRecord,
  source: string,
  tokens: number,
  random: SeededRandom,
): Episode | undefined {
  const drawn = drawExcerpt(tokenizer, record.text, tokens, random);
  if (drawn === undefined) return undefined;
  const { ids, start } = drawn;
  const words = wordsOf.get(tokenizer) ?? new TokenWords(tokenizer);
  wordsOf.set(tokenizer, words);
  const begun = tokenizer.bosId === undefined ? 0 : 1;
  return {
    id: `${source}/${record.id}@${start}`,
    source,
    setting: "stream",
    steps: [],
    input: ids.slice(0, GIVEN_TOKENS),
    target: ids.slice(GIVEN_TOKENS),
    wordStarts: words.starts(ids.slice(begun)).map((word) => word + begun),
  };
}

/**
 * Stretches from a random place of a text, which begins after white space; the beginning-of-text token comes first.
 * @returns undefined if the text is too short
 */
export function streamEpisode(
  tokenizer: Tokenizer,
  record: TextRecord,
  source: string,
  { steps, stepTokens }: StreamCut,
  random: SeededRandom,
): Episode | undefined {
  const drawn = drawExcerpt(tokenizer, record.text, (steps + 1) * stepTokens, random);
  if (drawn === undefined) return undefined;
  const { ids, start } = drawn;
  const stretch = (index: number): number[] => ids.slice(index * stepTokens, (index + 1) * stepTokens);
  const last = stretch(steps);
  return {
    id: `${source}/${record.id}@${start}+${steps}`,
    source,
    setting: "stream",
    steps: Array.from({ length: steps }, (_, index) => stretch(index)),
    input: last.slice(0, GIVEN_TOKENS),
    target: last.slice(GIVEN_TOKENS),
  };
}
