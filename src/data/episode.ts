/** @file What training and evaluation work on: context in time steps, a question to the memory, and its answer. */

/** The four ways in which context grows. */
export const SETTINGS = ["conversation", "icl", "personal", "stream"] as const;

/**
 * What a time step is: a turn of a conversation, a demonstration of a task (in-context learning), an entry of a user's
 * profile, or a stretch of a text.
 */
export type Setting = (typeof SETTINGS)[number];

/** A range [start, end) of tokens. */
export interface TokenRange {
  start: number;
  end: number;
}

/**
 * One sample as token ids. `steps`, `input` and `target`, joined, are one text as the model was trained to read it; the
 * beginning-of-text token is in the first step.
 */
export interface Episode {
  /** Unique within its source and draw. */
  id: string;
  /** Name of the data source or task. */
  source: string;
  setting: Setting;
  /** The context: token ids of each time step, none empty. */
  steps: readonly (readonly number[])[];
  /** What the memory is asked, up to the opening of the answer. */
  input: readonly number[];
  /** The answer with its end token; the continuation in a stream. */
  target: readonly number[];
  /**
   * For each of `steps`, the range [start, end) of its own answer with the end token, where it is a question with an
   * answer; undefined if steps are plain text.
   */
  answers?: readonly (TokenRange | undefined)[];
  /** Candidate answers as token ids, without the end token. */
  options?: readonly (readonly number[])[];
  /** The texts of `options`. */
  optionTexts?: readonly string[];
  /** Which of `options` is right. */
  answerIndex?: number;
  /** In plain text that is not in steps: where words begin, as indices of the input and target joined. */
  wordStarts?: readonly number[];
}

/** All tokens of an episode. */
export function episodeLength({ steps, input, target }: Episode): number {
  return steps.reduce((sum, step) => sum + step.length, input.length + target.length);
}
