/** @file Rounds of restoring and of re-reading, summed up as one line per saved session. */
import { median, type Ratio } from "../measure.js";
import type { NextToken } from "./contestant.js";

/** Everything measured of one saved session. */
export interface Measured {
  engine: string;
  memory: string;
  /** Tokens of the history that it holds. */
  tokens: number;
  slots: number;
  format: string;
  bytes: number;
  restores: readonly NextToken[];
  /** Of the same memory; shared by its formats. */
  rereads: readonly NextToken[];
}

/** One line of the report. */
export interface Line extends Omit<Measured, "restores" | "rereads"> {
  /** Medians over rounds. */
  restoreMs: number;
  rereadMs: number;
  /** How many times longer re-reading takes. */
  ratio: Ratio;
  /** Whether the next token was always the one that came after re-reading. */
  sameToken: boolean;
}

/**
 * Re-reading against restoring: the ratio of the medians, and the least and most favourable pairs of rounds. They are
 * rarely measured as often as one another, so rounds have no partners.
 */
export function ratioOfTimes(rereadMs: readonly number[], restoreMs: readonly number[]): Ratio {
  return {
    median: median(rereadMs) / median(restoreMs),
    lowest: Math.min(...rereadMs) / Math.max(...restoreMs),
    highest: Math.max(...rereadMs) / Math.min(...restoreMs),
  };
}

/** Sums up the rounds of a saved session. */
export function summarize({ restores, rereads, ...about }: Measured): Line {
  const [restoreMs, rereadMs] = [restores, rereads].map((times) => times.map(({ milliseconds }) => milliseconds)) as [
    number[],
    number[],
  ];
  const expected = rereads[0]?.token;
  return {
    ...about,
    restoreMs: median(restoreMs),
    rereadMs: median(rereadMs),
    ratio: ratioOfTimes(rereadMs, restoreMs),
    sameToken: [...rereads, ...restores].every(({ token }) => token === expected),
  };
}
