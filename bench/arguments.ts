/** @file Options of benchmarks, checked. */

/** One of the words that an option takes. */
export function choice<Word extends string>(option: string, value: string, words: readonly Word[]): Word {
  const word = words.find((name) => name === value);
  if (word === undefined) throw new Error(`--${option} ${value}: use ${words.join(" or ")}.`);
  return word;
}

/** A count that an option takes. */
export function wholeNumber(option: string, value: string): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1) throw new Error(`--${option} ${value}: use a whole number from 1 on.`);
  return number;
}
