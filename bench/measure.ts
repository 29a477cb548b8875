/** @file Turns token times into tokens per second, and rounds of them into medians and ratios. */
import type { Answer } from "./engines/engine.js";

/** The middle value; the mean of the two middle ones of an even count. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  if (sorted.length === 0) return NaN;
  return ((sorted[Math.ceil(middle) - 1] as number) + (sorted[Math.floor(middle)] as number)) / 2;
}

/** Tokens read per second until the first one came out. */
export function prefillRate(answer: Answer, promptTokens: number): number {
  return (1000 * promptTokens) / ((answer.tokenTimes[0] as number) - answer.startedAt);
}

/** Tokens per second of all answers together, over the time in which every one of them was being decoded. */
export function decodeRate(answers: readonly Answer[]): number {
  const from = Math.max(...answers.map(({ tokenTimes }) => tokenTimes[0] as number));
  const to = Math.min(...answers.map(({ tokenTimes }) => tokenTimes.at(-1) as number));
  if (to <= from) throw new Error("The answers were not decoded at the same time; ask for more tokens.");
  const tokens = answers.flatMap(({ tokenTimes }) => tokenTimes).filter((time) => time > from && time <= to).length;
  return (1000 * tokens) / (to - from);
}

/** Rates of one engine at one task, a value per round. */
export type Rates = number[];

/** A ratio of two series measured side by side: the median over rounds, and the extremes. */
export interface Ratio {
  median: number;
  lowest: number;
  highest: number;
}

/** Compares round by round, so that a disturbance that hit both engines cancels out. */
export function ratioOf(ours: Rates, theirs: Rates): Ratio {
  const ratios = ours.map((rate, round) => rate / (theirs[round] as number));
  return { median: median(ratios), lowest: Math.min(...ratios), highest: Math.max(...ratios) };
}
