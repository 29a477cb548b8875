/** @file What the comparison of restoring with re-reading asks of an engine. */
import type { TokenIds } from "../engines/engine.js";

/** The next token of a session, and how long it took to get there. */
export interface NextToken {
  milliseconds: number;
  token: number;
}

/** What happened in a session before the clock starts, and what it is then asked. */
export interface Session {
  /** Tokens of the whole history, oldest first. */
  history: TokenIds;
  /** Tokens of one time step. */
  stepTokens: number;
  /** Tokens that follow once the session is back; the next token is the answer to them. */
  prompt: TokenIds;
}

/** A session in a file. */
export interface SavedSession {
  /** How its numbers are written, such as `fp16`. */
  format: string;
  bytes: number;
  /** From the file to the next token. */
  restore(): Promise<NextToken>;
}

/** A memory of an engine that takes part. */
export interface Contestant extends AsyncDisposable {
  readonly engine: string;
  readonly memory: string;
  /** Tokens of the history that are read: the last ones, where the context ends before the history does. */
  readonly tokens: number;
  /** From the history to the next token. The session that comes of it is kept for {@link Contestant.save}. */
  reread(): Promise<NextToken>;
  /** KV positions of the session that was read last. */
  slots(): Promise<number>;
  /** Writes the session that was read last into files in `folder`. */
  save(folder: string): Promise<SavedSession[]>;
}

/** The end of a history that leaves room for the prompt and the next token in a context of `positions`. */
export function fitHistory({ history, prompt }: Pick<Session, "history" | "prompt">, positions: number): TokenIds {
  const room = positions - prompt.length - 1;
  return history.length <= room ? history : history.slice(history.length - room);
}
