/** @file Writes sessions to the store, all of a change or nothing of it. */
import type { LogRecord } from "../options.js";
import type { SessionDirectory } from "./session-directory.js";
import type { SessionFiles } from "./session-files.js";
import type { SessionMemories } from "./session-memories.js";
import { UNKNOWN_VERSION, type Session, type SessionState } from "./session.js";

/** What a save writes beside the record, and what it gives up. */
export interface SaveChange {
  added?: { state: SessionState; bytes: Uint8Array };
  without?: readonly SessionState[];
}

/** What sessions are saved with. */
export interface SessionSavesParts {
  files: SessionFiles;
  directory: SessionDirectory;
  memories: SessionMemories;
  log: (record: LogRecord) => void;
}

/** Saves sessions. */
export class SessionSaves {
  readonly #parts: SessionSavesParts;
  /** States written so far. */
  saved = 0;
  /** States that the store refused so far. */
  failures = 0;

  constructor(parts: SessionSavesParts) {
    this.#parts = parts;
  }

  /**
   * Saves a session without some of its states.
   * @throws what the store throws; then the session is read again before it is used
   */
  async save(session: Session, { added, without = [] }: SaveChange = {}): Promise<void> {
    const index = await this.#parts.directory.index(session.namespace);
    const before = session.states.filter((state) => state !== added?.state);
    session.states = session.states.filter((state) => !without.includes(state));
    try {
      await this.#parts.files.save(session, added);
    } catch (error) {
      this.failures++;
      this.note("error", "save-failed", session, error);
      session.states = before;
      await this.#parts.memories.abandon(session);
      if (session.version === undefined) await this.#parts.directory.forget(session);
      else session.version = UNKNOWN_VERSION;
      throw error;
    }
    this.saved++;
    for (const state of without) index.removeState({ session, state });
    try {
      await this.#parts.files.giveUp(session, without);
    } catch (error) {
      // They are found and deleted when a server reads the sessions the next time.
      this.note("info", "discard-failed", session, error);
    }
  }

  /** Logs what went wrong with a session. */
  note(level: "info" | "error", event: string, { id }: Session, error: unknown): void {
    this.#parts.log({ level, event, session: id, reason: error instanceof Error ? error.message : String(error) });
  }
}
