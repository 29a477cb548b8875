/** @file What labels are called where names must not tell anything (common words, words out of texts), and their shares. */
import type { SeededRandom } from "../random.js";
import type { Material } from "./material.js";
import { RANDOM_WORDS } from "./random-words.js";

/** Share of draws whose labels are all from {@link RANDOM_WORDS}, which soon are familiar. */
const FAMILIAR = 0.4;

/** Share of the other labels that are two words. */
const PHRASES = 0.25;

/** Draws of a word for each one needed. */
const TRIES = 8;

/** A word that could name something. */
const WORD = /[A-Za-z][a-z]{2,11}/g;

/**
 * `count` different names for labels: all of them familiar words or, more often, words and phrases out of texts, of which
 * there are too many to be learned by heart.
 * @param material may be empty; then all are familiar words
 */
export function labelNames(count: number, material: readonly Material[], random: SeededRandom): string[] {
  if (material.length === 0 || random.chance(FAMILIAR)) return random.sample(RANDOM_WORDS, count);
  const names = new Set<string>();
  for (let tries = 0; names.size < count && tries < TRIES * count; tries++) {
    const name = nameIn(random.pick(material).draw(random) ?? "", random);
    if (name !== undefined) names.add(name);
  }
  // Texts without words leave some unnamed.
  for (const word of random.sample(RANDOM_WORDS, 2 * count)) if (names.size < count) names.add(word);
  return [...names];
}

/** A word of a text, or two that follow each other. */
function nameIn(text: string, random: SeededRandom): string | undefined {
  const words = text.match(WORD) ?? [];
  if (words.length === 0) return undefined;
  const at = random.between(0, words.length - 1);
  return words.slice(at, at + (random.chance(PHRASES) ? 2 : 1)).join(" ");
}

/** How often each label comes: half of the time equally, else in any proportion. */
export function labelFrequencies(count: number, random: SeededRandom): number[] {
  const isEqual = random.chance(0.5);
  const weights = Array.from({ length: count }, () => (isEqual ? 1 : 0.1 + random.next()));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}
