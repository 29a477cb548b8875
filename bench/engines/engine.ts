/** @file What the benchmark asks of an engine. */

/** Token ids of a prompt or a conversation. */
export type TokenIds = readonly number[];

/** Times at which a prompt was given and each token came out, in milliseconds as `performance.now` counts. */
export interface Answer {
  startedAt: number;
  tokenTimes: number[];
}

/** A long past that stays, so that decoding after it can be measured again and again. */
export interface Conversation {
  /** KV positions that the engine holds for it. */
  readonly slots: number;
  /** Answers `prompt` with `count` tokens and forgets both again. */
  answer(prompt: TokenIds, count: number): Promise<Answer>;
}

/** An engine with the benchmark model loaded. All decoding is greedy and goes on past end-of-text tokens. */
export interface Engine extends AsyncDisposable {
  readonly name: string;
  /** Versions and settings, for the report. */
  readonly details: Readonly<Record<string, string | number | boolean>>;
  /** Answers each prompt with `count` tokens, all at once; each starts from an empty past. */
  generate(prompts: readonly TokenIds[], count: number): Promise<Answer[]>;
  /** Takes in a long conversation. */
  converse(ids: TokenIds): Promise<Conversation>;
}
