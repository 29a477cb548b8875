/** @file A session opened for bulk work without a server: its memory, and how far documents were taken into it. */
import { randomInt } from "node:crypto";
import { PrecisError } from "../../errors.js";
import type { ChatMessage, Memory, MemoryStats } from "../../index.js";
import { adapterFolders, completeSetup, memoryOptions } from "../models.js";
import { afterMessages, afterText } from "../sessions/chain.js";
import { excessStates } from "../sessions/excess-states.js";
import { SessionFiles } from "../sessions/session-files.js";
import { nowSeconds, Session, type SessionState } from "../sessions/session.js";
import type { IngestEnvironment, IngestTask } from "./ingest.js";

/** Documents whose progress a state remembers; the oldest are forgotten first. */
const KNOWN_DOCUMENTS = 1000;
/** Serial numbers are skipped at random up to this many. */
const SKIPPED_SERIALS = 2 ** 20;

/** A session with its memory. */
export class OpenedSession implements AsyncDisposable {
  readonly #environment: IngestEnvironment;
  readonly #files: SessionFiles;
  readonly #session: Session;
  readonly #memory: Memory;
  readonly #taken: Map<string, number>;
  #chain: string;

  private constructor(environment: IngestEnvironment, files: SessionFiles, session: Session, memory: Memory) {
    this.#environment = environment;
    this.#files = files;
    this.#session = session;
    this.#memory = memory;
    this.#chain = session.chain;
    this.#taken = new Map(Object.entries(session.head?.ingested ?? {}));
  }

  /** Opens a session of the store, or drafts one. @throws OPTION_INVALID for one of another model; METHOD_UNKNOWN, SNAPSHOT_… */
  static async open(environment: IngestEnvironment, task: IngestTask): Promise<OpenedSession> {
    const { store, served } = environment;
    const { namespace, session: id, setup = {} } = task;
    const files = new SessionFiles(store);
    const found = await files.record({ namespace, id });
    if (found === undefined) {
      const complete = completeSetup(served, setup);
      const memory = await served.model.createMemory(memoryOptions(served, complete));
      const { method, options } = memory;
      const session = new Session(namespace, id, served, "explicit", { ...complete, method, options });
      return new OpenedSession(environment, files, session, memory);
    }
    if (found.record.model !== served.id) {
      throw new PrecisError("OPTION_INVALID", `Session "${id}" is of the model "${found.record.model}".`, {
        value: served.id,
        nextStep: "Take that model, by --model and --name, or name another session.",
      });
    }
    const session = Session.fromRecord({ namespace, id }, served, found.record);
    session.version = found.version;
    const memory =
      session.head === undefined
        ? await served.model.createMemory(memoryOptions(served, session.setup))
        : await served.model.restoreMemory(
            await files.snapshot(session, session.head),
            adapterFolders(served, session.setup),
          );
    return new OpenedSession(environment, files, session, memory);
  }

  /** What the memory holds as of the last state that was saved. */
  get stats(): MemoryStats {
    return this.#session.stats;
  }

  /** How far a document was taken in. */
  taken(document: string): number {
    return this.#taken.get(document) ?? 0;
  }

  /** Notes how far a document is taken in, for the next state. */
  mark(document: string, end: number): void {
    this.#taken.delete(document);
    this.#taken.set(document, end);
  }

  /** Takes in a time step. */
  async append(input: string | readonly ChatMessage[], signal: AbortSignal | undefined): Promise<void> {
    await this.#memory.append(input, signal === undefined ? {} : { signal });
    this.#chain = typeof input === "string" ? afterText(this.#chain, input) : afterMessages(this.#chain, input);
  }

  /** Saves memory and marks as one state. @throws STORE_CONFLICT where a server went on with the session */
  async commit(): Promise<MemoryStats> {
    const { limits, precision } = this.#environment;
    const session = this.#session;
    const [stats, bytes] = [await this.#memory.stats(), await this.#memory.snapshot({ precision })];
    // A server that commits at the same time takes the next number; its snapshot must not be overwritten.
    const serial = session.nextSerial + randomInt(1, SKIPPED_SERIALS);
    const ingested = Object.fromEntries([...this.#taken].slice(-KNOWN_DOCUMENTS));
    const size = bytes.byteLength;
    const state: SessionState = { serial, chain: this.#chain, stats, size, created: nowSeconds(), ingested };
    session.nextSerial = serial + 1;
    session.unsaved.set(serial, bytes);
    const states = [...session.states, state];
    const excess = excessStates(states, limits);
    session.states = states.filter((other) => !excess.includes(other));
    session.used = nowSeconds();
    try {
      await this.#files.save(session);
    } catch (error) {
      // After any other failure the record may be there, and name the snapshot.
      const isConflict = error instanceof PrecisError && error.code === "STORE_CONFLICT";
      if (isConflict) await this.#files.discard(session, [state]);
      throw error;
    }
    await this.#files.discard(session, excess);
    return stats;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#memory.dispose();
  }
}
