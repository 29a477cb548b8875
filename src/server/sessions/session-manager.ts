/** @file All sessions of a server: finding, making, using, saving and forgetting them. */
import { PrecisError } from "../../errors.js";
import type { JsonValue, Memory, SessionStore, SnapshotPrecision } from "../../index.js";
import { ApiError } from "../api-error.js";
import type { MemoryBudget } from "../memory-budget.js";
import { memoryOptions, type MemorySetup, type ModelPool, type ServedModel } from "../models.js";
import type { LogRecord, ServerLimits } from "../options.js";
import type { Scheduler } from "../scheduler.js";
import { excessStates } from "./excess-states.js";
import { stepMissing } from "./refusals.js";
import { SessionDirectory, sessionMissing } from "./session-directory.js";
import { SessionFiles } from "./session-files.js";
import type { SessionIndex, SessionPoint } from "./session-index.js";
import { SessionLeases } from "./session-leases.js";
import { SessionMemories, type ExclusiveOptions, type UseOptions } from "./session-memories.js";
import { SessionSaves } from "./session-saves.js";
import { freshId, nowSeconds, Session, snapshotName, type SessionKind, type SessionState } from "./session.js";

/** What a manager works with. */
export interface ManagerParts {
  store: SessionStore;
  models: ModelPool;
  budget: MemoryBudget;
  scheduler: Scheduler;
  limits: ServerLimits;
  precision: SnapshotPrecision;
  log: (record: LogRecord) => void;
}

/** What a new state comes with. */
export interface CommitOptions {
  chain: string;
  response?: { id: string; body: JsonValue } | undefined;
}

const PREFIXES: Readonly<Record<SessionKind, string>> = { explicit: "sess", chat: "chat", response: "conv" };

/** Codes of a store that failed, or in which another server was faster. */
const STORE_TROUBLE: ReadonlySet<string> = new Set(["STORE_UNAVAILABLE", "STORE_CONFLICT"]);

/** Setups whose defaults are remembered. */
const KNOWN_SETUPS = 256;

/** Sessions in the engine and in the store. */
export class SessionManager {
  readonly #parts: ManagerParts;
  readonly #files: SessionFiles;
  readonly #directory: SessionDirectory;
  readonly #leases: SessionLeases;
  readonly #memories: SessionMemories;
  readonly #saves: SessionSaves;
  readonly #setups = new Map<string, MemorySetup>();

  constructor(parts: ManagerParts) {
    this.#parts = parts;
    const { store, limits, models, log, budget, scheduler } = parts;
    const files = new SessionFiles(store);
    this.#files = files;
    this.#leases = new SessionLeases(store, limits);
    const directory = new SessionDirectory({ files, models, log, release: (session) => this.abandon(session) });
    this.#directory = directory;
    this.#memories = new SessionMemories({ files, directory, leases: this.#leases, budget, scheduler, limits });
    this.#saves = new SessionSaves({ files, directory, memories: this.#memories, log });
  }

  /** What happened so far, for metrics. */
  get counts(): { restored: number; saved: number; saveFailures: number } {
    return { restored: this.#memories.restored, saved: this.#saves.saved, saveFailures: this.#saves.failures };
  }

  /** The sessions of a namespace that this server knows; read from the store once, and where other servers change them. */
  index(namespace: string): Promise<SessionIndex> {
    return this.#directory.index(namespace);
  }

  /** Learns what other servers did to the sessions of a namespace. */
  async sync(namespace: string): Promise<SessionIndex> {
    await this.#directory.sync(namespace);
    return this.index(namespace);
  }

  /** A session as it is in the store. @throws ApiError 404 */
  async find(namespace: string, id: string): Promise<Session> {
    const session = await this.#directory.find(namespace, id);
    if (session === undefined) throw sessionMissing(id);
    return session;
  }

  /** The state in which a response ended, also one that another server gave; undefined where there is none. */
  findResponse(namespace: string, id: string): Promise<SessionPoint | undefined> {
    return this.#directory.findResponse(namespace, id);
  }

  /** A setup with its method and all its options, as a memory made of it has them. @throws METHOD_UNKNOWN, OPTION_INVALID */
  async resolve(served: ServedModel, setup: MemorySetup): Promise<MemorySetup> {
    const key = JSON.stringify([served.id, setup]);
    const known = this.#setups.get(key);
    if (known !== undefined) return known;
    const memory = await served.model.createMemory(memoryOptions(served, setup));
    await memory.dispose();
    const { method, options } = memory;
    const resolved = { ...setup, method, options };
    if (this.#setups.size >= KNOWN_SETUPS) this.#setups.clear();
    this.#setups.set(key, resolved);
    return resolved;
  }

  /** A session that nobody can find until {@link SessionManager.commit} or {@link SessionManager.register}. */
  draft(
    namespace: string,
    served: ServedModel,
    setup: MemorySetup,
    { kind, id = freshId(PREFIXES[kind]), origin }: { kind: SessionKind; id?: string; origin?: SessionPoint },
  ): Session {
    const session = new Session(namespace, id, served, kind, setup);
    session.origin = origin;
    session.parent = origin?.session.id;
    return session;
  }

  /** Makes a draft findable, within the namespace's limits. @throws ApiError 409 for an id in use, 429 for too many */
  async register(session: Session): Promise<void> {
    const index = await this.index(session.namespace);
    if (index.sessions.get(session.id) === session) return;
    if (session.kind === "explicit") await this.#directory.find(session.namespace, session.id);
    if (index.sessions.has(session.id)) {
      throw new ApiError(409, "session_exists", `There is a session "${session.id}" already.`, {
        param: "id",
        nextStep: "Choose another id, or leave it out.",
      });
    }
    const isSame = (other: Session): boolean => (other.kind === "explicit") === (session.kind === "explicit");
    const others = [...index.sessions.values()].filter(isSame);
    const { sessions, automaticSessions } = this.#parts.limits;
    if (session.kind === "explicit") {
      if (others.length >= sessions) {
        throw new ApiError(429, "session_limit_reached", `There are ${others.length} sessions, as many as may be.`, {
          nextStep: "Delete some with DELETE /v1/sessions/ID.",
        });
      }
    } else {
      const idle = others.filter(({ lock, claimed }) => !lock.held && !claimed).sort((a, b) => a.used - b.used);
      for (const old of idle.slice(0, Math.max(0, others.length + 1 - automaticSessions))) await this.#expel(old);
    }
    index.add(session);
  }

  /** See {@link SessionMemories.exclusive}. */
  exclusive<Result>(
    session: Session,
    options: ExclusiveOptions,
    work: (signal: AbortSignal | undefined) => Promise<Result>,
  ): Promise<Result> {
    return this.#memories.exclusive(session, options, work);
  }

  /** See {@link SessionMemories.look}. */
  look<Result>(
    session: Session,
    step: number | undefined,
    options: UseOptions,
    work: (memory: Memory, signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    return this.#memories.look(session, step, options, work);
  }

  /** See {@link SessionMemories.use}. */
  use<Result>(
    session: Session,
    options: UseOptions,
    work: (memory: Memory, signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    return this.#memories.use(session, options, work);
  }

  /**
   * Makes what `memory` holds the present state of a session, in the store first: once this returns, it outlasts the
   * server. If it fails, the session is as it was, except that a conversation that clients send in full anyway is only
   * forgotten.
   * @throws STORE_CONFLICT where another server changed the session; STORE_UNAVAILABLE
   */
  async commit(session: Session, memory: Memory, { chain, response }: CommitOptions): Promise<SessionState> {
    const [stats, bytes] = [await memory.stats(), await memory.snapshot({ precision: this.#parts.precision })];
    await this.register(session);
    if (session.memory !== memory) await session.memory?.dispose();
    session.memory = memory;
    const { method, options } = memory;
    session.setup = { ...session.setup, method, options };
    const serial = session.nextSerial++;
    const size = bytes.byteLength;
    const { ingested } = session.head ?? {};
    const about = { chain, stats, size, created: nowSeconds(), response, ingested };
    const state = { serial, snapshot: snapshotName(serial), ...about };
    session.states = [...session.states, state];
    session.used = nowSeconds();
    try {
      await this.#saves.save(session, {
        added: { state, bytes },
        without: excessStates(session.states, this.#parts.limits),
      });
    } catch (error) {
      const isTrouble = error instanceof PrecisError && STORE_TROUBLE.has(error.code);
      if (session.kind !== "chat" || !isTrouble) throw error;
      await this.#directory.forget(session);
      return state;
    }
    const index = await this.index(session.namespace);
    index.addState({ session, state });
    return state;
  }

  /** Goes back to an earlier state; what came after it is forgotten. */
  async rewind(session: Session, step: number): Promise<void> {
    const state = session.states.find(({ stats }) => stats.steps === step);
    if (state === undefined && step !== 0) throw stepMissing(session, step);
    const later = session.states.filter(({ stats }) => stats.steps > step);
    await session.memory?.dispose();
    session.memory = undefined;
    this.#parts.budget.drop(session);
    session.origin = undefined;
    session.used = nowSeconds();
    await this.#saves.save(session, { without: later });
  }

  /** Forgets a response, and keeps the state that it ended in for those that follow. */
  async forgetResponse(session: Session, id: string): Promise<void> {
    const state = session.states.find(({ response }) => response?.id === id);
    if (state === undefined) return;
    const index = await this.index(session.namespace);
    index.removeState({ session, state });
    state.response = undefined;
    index.addState({ session, state });
    await this.#saves.save(session);
  }

  /** Writes a session's record after a change that is not a new state. */
  async save(session: Session): Promise<void> {
    await this.#saves.save(session);
  }

  /** The snapshot of a state; the present one by default. */
  async snapshot({ session, state }: SessionPoint): Promise<Uint8Array> {
    return this.#files.snapshot(session, state);
  }

  /** See {@link SessionMemories.settle}. */
  settle(session: Session): void {
    this.#memories.settle(session);
  }

  /** See {@link SessionMemories.abandon}. */
  abandon(session: Session): Promise<void> {
    return this.#memories.abandon(session);
  }

  /** Deletes a session when nobody uses it. */
  async delete(session: Session, signal?: AbortSignal): Promise<void> {
    await this.exclusive(session, { signal, limit: Infinity }, async () => {
      await this.#files.delete(session);
      await this.#directory.forget(session);
    });
  }

  /** Deletes an old session to make room for others, unless another server is using it or has used it since. */
  async #expel(session: Session): Promise<void> {
    const { version } = session;
    // Nobody can name it, so it may vanish before its files do.
    await this.#directory.forget(session);
    try {
      await this.#leases.runNow(session, async () => {
        const found = await this.#files.record(session);
        if (found?.version === version) await this.#files.delete(session);
      });
    } catch (error) {
      this.#saves.note("info", "expel-failed", session, error);
    }
  }
}
