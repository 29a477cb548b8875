/** @file A session opened for bulk work without a server: its memory, and how far documents were taken into it. */
import { PrecisError } from "../../errors.js";
import type { ChatMessage, Memory, MemoryStats } from "../../index.js";
import { adapterFolders, completeSetup, memoryOptions } from "../models.js";
import { afterMessages, afterText } from "../sessions/chain.js";
import { excessStates } from "../sessions/excess-states.js";
import { SessionFiles } from "../sessions/session-files.js";
import { nowSeconds, Session, snapshotName, type SessionRecord, type SessionState } from "../sessions/session.js";
import type { IngestEnvironment, IngestTask } from "./ingest.js";

/** Documents whose progress a state remembers; the oldest are forgotten first. */
const KNOWN_DOCUMENTS = 1000;

/** A session with its memory. */
export class OpenedSession implements AsyncDisposable {
  readonly #environment: IngestEnvironment;
  readonly #files: SessionFiles;
  readonly session: Session;
  #memory: Memory;
  #taken: Map<string, number> = new Map();
  #chain = "";

  private constructor(environment: IngestEnvironment, files: SessionFiles, session: Session, memory: Memory) {
    this.#environment = environment;
    this.#files = files;
    this.session = session;
    this.#memory = memory;
    this.#note();
  }

  /** Opens a session of the store, or drafts one. @throws OPTION_INVALID for one of another model; METHOD_UNKNOWN, SNAPSHOT_… */
  static async open(environment: IngestEnvironment, task: IngestTask): Promise<OpenedSession> {
    const { store, served } = environment;
    const { namespace, session: id, setup = {} } = task;
    const files = new SessionFiles(store);
    const found = await files.record({ namespace, id });
    if (found !== undefined) {
      const session = new Session(namespace, id, served, found.record.kind, found.record.setup);
      adopt(session, found);
      return new OpenedSession(environment, files, session, await restore(files, session));
    }
    const complete = completeSetup(served, setup);
    const memory = await served.model.createMemory(memoryOptions(served, complete));
    const { method, options } = memory;
    const session = new Session(namespace, id, served, "explicit", { ...complete, method, options });
    return new OpenedSession(environment, files, session, memory);
  }

  /** What the memory holds as of the last state that was saved. */
  get stats(): MemoryStats {
    return this.session.stats;
  }

  /** How far a document was taken in. */
  taken(document: string): number {
    return this.#taken.get(document) ?? 0;
  }

  /** Becomes what the store has, if somebody changed it; to be called by whoever holds the session's lease. */
  async refresh(): Promise<void> {
    const found = await this.#files.record(this.session);
    if (found === undefined || found.version === this.session.version) return;
    adopt(this.session, found);
    const memory = await restore(this.#files, this.session);
    await this.#memory.dispose();
    this.#memory = memory;
    this.#note();
  }

  /** Takes in a time step. @param end how far its document then is */
  async append(
    input: string | readonly ChatMessage[],
    { document, end, signal }: { document: string; end: number; signal: AbortSignal },
  ): Promise<void> {
    await this.#memory.append(input, { signal });
    this.#chain = typeof input === "string" ? afterText(this.#chain, input) : afterMessages(this.#chain, input);
    this.#taken.delete(document);
    this.#taken.set(document, end);
  }

  /** Saves memory and progress as one state. @throws STORE_CONFLICT where somebody wrote without the lease */
  async commit(): Promise<void> {
    const { limits, precision } = this.#environment;
    const { session } = this;
    const [stats, bytes] = [await this.#memory.stats(), await this.#memory.snapshot({ precision })];
    const serial = session.nextSerial++;
    const ingested = Object.fromEntries([...this.#taken].slice(-KNOWN_DOCUMENTS));
    const about = { chain: this.#chain, stats, size: bytes.byteLength, created: nowSeconds(), ingested };
    const state: SessionState = { serial, snapshot: snapshotName(serial), ...about };
    const states = [...session.states, state];
    const excess = excessStates(states, limits);
    session.states = states.filter((other) => !excess.includes(other));
    session.used = nowSeconds();
    await this.#files.save(session, { state, bytes });
    await this.#files.giveUp(session, excess);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#memory.dispose();
  }

  #note(): void {
    this.#chain = this.session.chain;
    this.#taken = new Map(Object.entries(this.session.head?.ingested ?? {}));
  }
}

/** @throws OPTION_INVALID for a session of another model */
function adopt(session: Session, { record, version }: { record: SessionRecord; version: string }): void {
  const { id, served } = session;
  if (record.model === served.id) return session.adopt(record, version);
  throw new PrecisError("OPTION_INVALID", `Session "${id}" is of the model "${record.model}".`, {
    value: served.id,
    nextStep: "Take that model, by --model and --name, or name another session.",
  });
}

async function restore(files: SessionFiles, session: Session): Promise<Memory> {
  const { head, served, setup } = session;
  if (head === undefined) return served.model.createMemory(memoryOptions(served, setup));
  const bytes = await files.snapshot(session, head);
  return served.model.restoreMemory(bytes, { ...adapterFolders(served, setup), consume: true });
}
