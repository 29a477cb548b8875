/** @file Long texts in stretches of equal length; the memory of the earlier ones is to help to read the next. */
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
  const { text, id } = record;
  const needed = (steps + 1) * stepTokens;
  const drawn = random.between(0, Math.max(0, text.length - needed * CHARACTERS_PER_TOKEN));
  const space = drawn === 0 ? -1 : text.slice(drawn, drawn + 200).search(/\s/);
  const start = drawn + space + 1;
  const begin = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  const excerpt = text.slice(start, start + needed * CHARACTERS_PER_TOKEN);
  const ids = [...begin, ...tokenizer.encode(excerpt, { addSpecialTokens: false, allowSpecial: false })];
  if (ids.length < needed) return undefined;
  const stretch = (index: number): number[] => ids.slice(index * stepTokens, (index + 1) * stepTokens);
  const last = stretch(steps);
  return {
    id: `${source}/${id}@${start}+${steps}`,
    source,
    setting: "stream",
    steps: Array.from({ length: steps }, (_, index) => stretch(index)),
    input: last.slice(0, GIVEN_TOKENS),
    target: last.slice(GIVEN_TOKENS),
  };
}
