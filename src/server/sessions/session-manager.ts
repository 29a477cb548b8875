/** @file All sessions of a server: finding, making, using, saving and forgetting them. */
import { PrecisError } from "../../errors.js";
import type { JsonValue, Memory, SessionStore, SnapshotPrecision } from "../../index.js";
import { ApiError } from "../api-error.js";
import type { MemoryBudget } from "../memory-budget.js";
import { memoryOptions, type MemorySetup, type ModelPool, type ServedModel } from "../models.js";
import type { LogRecord, ServerLimits } from "../options.js";
import type { Scheduler } from "../scheduler.js";
import { excessStates } from "./excess-states.js";
import { refuseDeleted, refuseMoved, stepMissing } from "./refusals.js";
import { restoreMemory } from "./restore-memory.js";
import { SessionDirectory, sessionMissing } from "./session-directory.js";
import { SessionFiles } from "./session-files.js";
import type { SessionIndex, SessionPoint } from "./session-index.js";
import { SessionLeases } from "./session-leases.js";
import {
  freshId,
  nowSeconds,
  Session,
  snapshotName,
  UNKNOWN_VERSION,
  type SessionKind,
  type SessionState,
} from "./session.js";

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

/** How a session is kept for one alone. */
export interface ExclusiveOptions {
  signal?: AbortSignal | undefined;
  /** Go on only if the session still stands at this state. */
  from?: SessionState | undefined;
  /** How many may wait; by default the server's limit. */
  limit?: number;
}

/** How a session is used. */
export interface UseOptions {
  /** Bytes that the work may need beside what the session holds. */
  bytes: number;
  signal: AbortSignal;
  /** Go on only if the session still stands at this state. */
  from?: SessionState | undefined;
}

/** What a save writes beside the record, and what it gives up. */
interface SaveChange {
  added?: { state: SessionState; bytes: Uint8Array };
  without?: readonly SessionState[];
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
  readonly #setups = new Map<string, MemorySetup>();
  /** What happened so far, for metrics. */
  readonly counts: { restored: number; saved: number; saveFailures: number } = {
    restored: 0,
    saved: 0,
    saveFailures: 0,
  };

  constructor(parts: ManagerParts) {
    this.#parts = parts;
    const { store, limits, models, log } = parts;
    this.#files = new SessionFiles(store);
    this.#leases = new SessionLeases(store, limits);
    this.#directory = new SessionDirectory({
      files: this.#files,
      models,
      log,
      release: (session) => this.abandon(session),
    });
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

  /**
   * Runs `work` on a session as it is in the store, while nobody else does, on this server or another.
   * @throws ApiError 404 where it was deleted, 409 where it went on from `from`, 429 where others have it for too long
   */
  exclusive<Result>(
    session: Session,
    { signal, from, limit = this.#parts.limits.queuePerSession }: ExclusiveOptions,
    work: (signal: AbortSignal | undefined) => Promise<Result>,
  ): Promise<Result> {
    return session.lock.run(
      async () => {
        refuseDeleted(session);
        // What is not in the store yet, no other server knows.
        if (session.version === undefined) return work(signal);
        return this.#leases.run(session, signal, async (combined) => {
          await this.#directory.refresh(session);
          refuseDeleted(session);
          refuseMoved(session, from);
          return work(combined);
        });
      },
      { limit, signal },
    );
  }

  /**
   * Runs `work` on the memory of a session as it is, or as it was at an earlier step. Nothing that it does is kept of an
   * earlier step, and of the present one it must leave the memory as it was.
   * @throws ApiError 409 for a step of which there is no state
   */
  async look<Result>(
    session: Session,
    step: number | undefined,
    { bytes, signal }: UseOptions,
    work: (memory: Memory, signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const state = session.states.find(({ stats }) => stats.steps === step);
    if (step === undefined || step === session.stats.steps) return this.use(session, { bytes, signal }, work);
    if (state === undefined && step !== 0) throw stepMissing(session, step);
    const { namespace, served, setup } = session;
    const job = { key: namespace, bytes: bytes + (state?.stats.bytes ?? 0), signal };
    return this.#parts.scheduler.run(job, async (combined) => {
      const memory =
        state === undefined
          ? await served.model.createMemory(memoryOptions(served, setup))
          : await restoreMemory(served, setup, await this.#files.snapshot(session, state));
      try {
        return await work(memory, combined);
      } finally {
        await memory.dispose();
      }
    });
  }

  /**
   * Runs `work` on the memory of a session, alone, when it is the namespace's turn and there is room in the engine.
   * @throws what {@link SessionManager.exclusive} throws; ApiError 409 where its memory cannot be restored, 429, 503
   */
  use<Result>(
    session: Session,
    { bytes, signal, from }: UseOptions,
    work: (memory: Memory, signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    return this.exclusive(session, { signal, from }, (kept) => {
      const restored = session.memory === undefined ? session.stats.bytes : 0;
      const job = { key: session.namespace, bytes: bytes + restored, signal: kept };
      return this.#parts.scheduler.run(job, async (combined) => {
        const memory = await this.#open(session);
        try {
          return await work(memory, combined);
        } finally {
          this.settle(session);
        }
      });
    });
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
      await this.#save(session, { added: { state, bytes }, without: excessStates(session.states, this.#parts.limits) });
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
    await this.#save(session, { without: later });
  }

  /** Forgets a response, and keeps the state that it ended in for those that follow. */
  async forgetResponse(session: Session, id: string): Promise<void> {
    const state = session.states.find(({ response }) => response?.id === id);
    if (state === undefined) return;
    const index = await this.index(session.namespace);
    index.removeState({ session, state });
    state.response = undefined;
    index.addState({ session, state });
    await this.#save(session);
  }

  /** Writes a session's record after a change that is not a new state. */
  async save(session: Session): Promise<void> {
    await this.#save(session);
  }

  /** The snapshot of a state; the present one by default. */
  async snapshot({ session, state }: SessionPoint): Promise<Uint8Array> {
    return this.#files.snapshot(session, state);
  }

  /** Counts what a session that nobody is using holds, so that it can be sent away. */
  settle(session: Session): void {
    if (session.memory !== undefined) this.#parts.budget.hold(session, session.stats.bytes);
  }

  /** Frees the memory of a draft that comes to nothing. */
  async abandon(session: Session): Promise<void> {
    this.#parts.budget.drop(session);
    await session.memory?.dispose();
    session.memory = undefined;
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
      this.#note("info", "expel-failed", session, error);
    }
  }

  async #open(session: Session): Promise<Memory> {
    if (session.memory !== undefined) return session.memory;
    const { served, setup, head, origin } = session;
    if (head === undefined) {
      session.memory = await served.model.createMemory(memoryOptions(served, setup));
    } else {
      const owner = session.states.length === 0 ? (origin?.session ?? session) : session;
      session.memory = await restoreMemory(served, setup, await this.#files.snapshot(owner, head));
      this.counts.restored++;
    }
    const { method, options } = session.memory;
    session.setup = { ...setup, method, options };
    return session.memory;
  }

  /**
   * Saves a session without some of its states.
   * @throws what the store throws; then the session is read again before it is used
   */
  async #save(session: Session, { added, without = [] }: SaveChange = {}): Promise<void> {
    const index = await this.index(session.namespace);
    const before = session.states.filter((state) => state !== added?.state);
    session.states = session.states.filter((state) => !without.includes(state));
    try {
      await this.#files.save(session, added);
    } catch (error) {
      this.counts.saveFailures++;
      this.#note("error", "save-failed", session, error);
      session.states = before;
      await this.abandon(session);
      if (session.version === undefined) await this.#directory.forget(session);
      else session.version = UNKNOWN_VERSION;
      throw error;
    }
    this.counts.saved++;
    for (const state of without) index.removeState({ session, state });
    try {
      await this.#files.giveUp(session, without);
    } catch (error) {
      // They are found and deleted when a server reads the sessions the next time.
      this.#note("info", "discard-failed", session, error);
    }
  }

  #note(level: "info" | "error", event: string, { id }: Session, error: unknown): void {
    this.#parts.log({ level, event, session: id, reason: error instanceof Error ? error.message : String(error) });
  }
}
