/** @file All sessions of a server: finding, making, using, saving and forgetting them. */
import { PrecisError } from "../../errors.js";
import type { JsonValue, Memory, SessionStore, SnapshotPrecision } from "../../index.js";
import { ApiError } from "../api-error.js";
import type { MemoryBudget } from "../memory-budget.js";
import { adapterFolders, memoryOptions, type MemorySetup, type ModelPool, type ServedModel } from "../models.js";
import type { LogRecord, ServerLimits } from "../options.js";
import { sessionId } from "../schemas/common.js";
import type { Scheduler } from "../scheduler.js";
import { excessStates } from "./excess-states.js";
import { refuseDeleted, stepMissing } from "./refusals.js";
import { SessionFiles } from "./session-files.js";
import { SessionIndex, type SessionPoint } from "./session-index.js";
import { freshId, nowSeconds, Session, type SessionKind, type SessionState } from "./session.js";

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

/** How a session is used. */
export interface UseOptions {
  /** Bytes that the work may need beside what the session holds. */
  bytes: number;
  signal: AbortSignal;
}

/** What a new state comes with. */
export interface CommitOptions {
  chain: string;
  response?: { id: string; body: JsonValue } | undefined;
}

const PREFIXES: Readonly<Record<SessionKind, string>> = { explicit: "sess", chat: "chat", response: "conv" };

/** What is wrong with a session alone, not with the store. */
const DAMAGED: ReadonlySet<string> = new Set(["STORE_CORRUPT", "STORE_KEY_MISMATCH"]);

/** Setups whose defaults are remembered. */
const KNOWN_SETUPS = 256;

/** Sessions in the engine and in the store. */
export class SessionManager {
  readonly #parts: ManagerParts;
  readonly #files: SessionFiles;
  readonly #namespaces = new Map<string, Promise<SessionIndex>>();
  readonly #setups = new Map<string, MemorySetup>();
  /** What happened so far, for metrics. */
  readonly counts: { restored: number; saved: number; saveFailures: number } = {
    restored: 0,
    saved: 0,
    saveFailures: 0,
  };

  constructor(parts: ManagerParts) {
    this.#parts = parts;
    this.#files = new SessionFiles(parts.store);
  }

  /** The sessions of a namespace; read from the store once. */
  index(namespace: string): Promise<SessionIndex> {
    let index = this.#namespaces.get(namespace);
    if (index === undefined) {
      index = this.#readIndex(namespace);
      index.catch(() => this.#namespaces.delete(namespace));
      this.#namespaces.set(namespace, index);
    }
    return index;
  }

  /** The session of an id; one that another server or a worker made is read from the store. @throws ApiError 404 */
  async find(namespace: string, id: string): Promise<Session> {
    const index = await this.index(namespace);
    // Ids with dots name snapshots.
    if (!index.sessions.has(id) && sessionId.safeParse(id).success) await this.#read(index, namespace, id);
    const session = index.sessions.get(id);
    if (session !== undefined) return session;
    throw new ApiError(404, "session_not_found", `There is no session "${id}".`, {
      param: "session",
      nextStep: 'Make one with POST /v1/sessions, such as {"id": "alice"}.',
    });
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
      for (const old of idle.slice(0, Math.max(0, others.length + 1 - automaticSessions))) {
        // Nobody can name it, so it may vanish before its files do.
        await this.#forget(old);
        await this.#files.delete(old);
      }
    }
    index.add(session);
  }

  /**
   * Runs `work` on the memory of a session, alone, when it is the namespace's turn and there is room in the engine.
   * @throws ApiError 404 where the session was deleted meanwhile, 409 where its memory cannot be restored, 429, 503
   */
  use<Result>(
    session: Session,
    { bytes, signal }: UseOptions,
    work: (memory: Memory, signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const { scheduler, limits } = this.#parts;
    return session.lock.run(
      async () => {
        refuseDeleted(session);
        const restored = session.memory === undefined ? session.stats.bytes : 0;
        const job = { key: session.namespace, bytes: bytes + restored, signal };
        return scheduler.run(job, async (combined) => {
          const memory = await this.#open(session);
          try {
            return await work(memory, combined);
          } finally {
            this.settle(session);
          }
        });
      },
      { limit: limits.queuePerSession, signal },
    );
  }

  /**
   * Makes what `memory` holds the present state of a session, and saves it. A store that fails does not undo the turn: the
   * session stays in the engine, and is saved with its next state or at the end.
   * @throws STORE_CONFLICT where another server changed the session; it is read again when it is used next
   */
  async commit(session: Session, memory: Memory, { chain, response }: CommitOptions): Promise<SessionState> {
    const [stats, bytes] = [await memory.stats(), await memory.snapshot({ precision: this.#parts.precision })];
    await this.register(session);
    if (session.memory !== memory) await session.memory?.dispose();
    session.memory = memory;
    const { method, options } = memory;
    session.setup = { ...session.setup, method, options };
    const size = bytes.byteLength;
    const { ingested } = session.head ?? {};
    const state = { serial: session.nextSerial++, chain, stats, size, created: nowSeconds(), response, ingested };
    session.states = [...session.states, state];
    session.unsaved.set(state.serial, bytes);
    session.used = nowSeconds();
    const index = await this.index(session.namespace);
    index.addState({ session, state });
    await this.#save(session, excessStates(session.states, this.#parts.limits));
    return state;
  }

  /** Goes back to an earlier state; what came after it is forgotten. */
  async rewind(session: Session, step: number): Promise<void> {
    refuseDeleted(session);
    const state = session.states.find(({ stats }) => stats.steps === step);
    if (state === undefined && step !== 0) throw stepMissing(session, step);
    const later = session.states.filter(({ stats }) => stats.steps > step);
    await session.memory?.dispose();
    session.memory = undefined;
    this.#parts.budget.drop(session);
    session.origin = undefined;
    session.used = nowSeconds();
    await this.#save(session, later);
  }

  /** Forgets a response, and keeps the state that it ended in for those that follow. */
  async forgetResponse(session: Session, state: SessionState): Promise<void> {
    refuseDeleted(session);
    const index = await this.index(session.namespace);
    index.removeState({ session, state });
    const { response: _, ...rest } = state;
    session.states = session.states.map((other) => (other === state ? rest : other));
    index.addState({ session, state: rest });
    await this.#save(session, []);
  }

  /** Writes a session's record after a change that is not a new state. */
  async save(session: Session): Promise<void> {
    await this.#save(session, []);
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
    await session.lock.run(
      async () => {
        refuseDeleted(session);
        await this.#files.delete(session);
        await this.#forget(session);
      },
      { signal },
    );
  }

  /** Saves what could not be saved before; to be called when no work is left. */
  async flush(): Promise<void> {
    for (const index of await Promise.all(this.#namespaces.values())) {
      for (const session of index.sessions.values()) if (!session.isSaved) await this.#save(session, []);
    }
  }

  async #readIndex(namespace: string): Promise<SessionIndex> {
    const index = new SessionIndex();
    for (const id of await this.#files.ids(namespace)) await this.#read(index, namespace, id);
    return index;
  }

  /** Adds a session of the store to an index; one of a model that is not served stays where it is. */
  async #read(index: SessionIndex, namespace: string, id: string): Promise<void> {
    const found = await this.#files.record({ namespace, id }).catch((error: unknown) => {
      if (!(error instanceof PrecisError) || !DAMAGED.has(error.code)) throw error;
      // One damaged session must not keep the others from being used.
      this.#parts.log({ level: "error", event: "session-unreadable", session: id, reason: error.message });
      return undefined;
    });
    if (found === undefined) return;
    const served = this.#parts.models.all.find((candidate) => candidate.id === found.record.model);
    if (served === undefined) {
      this.#parts.log({ level: "info", event: "session-skipped", session: id, model: found.record.model });
      return;
    }
    // Somebody else may have read it meanwhile.
    if (index.sessions.has(id)) return;
    const session = Session.fromRecord({ namespace, id }, served, found.record);
    session.version = found.version;
    index.add(session);
  }

  async #open(session: Session): Promise<Memory> {
    if (session.memory !== undefined) return session.memory;
    const { served, setup, head, origin } = session;
    if (head === undefined) {
      session.memory = await served.model.createMemory(memoryOptions(served, setup));
    } else {
      const owner = session.states.length === 0 ? (origin?.session ?? session) : session;
      session.memory = await this.#restore(served, setup, await this.#files.snapshot(owner, head));
      this.counts.restored++;
    }
    const { method, options } = session.memory;
    session.setup = { ...setup, method, options };
    return session.memory;
  }

  async #restore(served: ServedModel, setup: MemorySetup, bytes: Uint8Array): Promise<Memory> {
    try {
      return await served.model.restoreMemory(bytes, adapterFolders(served, setup));
    } catch (error) {
      if (!(error instanceof PrecisError) || !error.code.startsWith("SNAPSHOT_")) throw error;
      throw new ApiError(409, "session_unreadable", "This session was made with another model, or is damaged.", {
        nextStep: "Start the server with the model and precision it was made with, or begin a new session.",
        cause: error,
      });
    }
  }

  /** Saves a session without some of its states. */
  async #save(session: Session, without: readonly SessionState[]): Promise<void> {
    const index = await this.index(session.namespace);
    session.states = session.states.filter((state) => !without.includes(state));
    for (const state of without) index.removeState({ session, state });
    session.isSaved = false;
    try {
      await this.#files.save(session);
      await this.#files.discard(session, without);
      this.counts.saved++;
    } catch (error) {
      if (error instanceof PrecisError && error.code === "STORE_CONFLICT") {
        await this.#forget(session);
        await this.#read(index, session.namespace, session.id);
        throw error;
      }
      this.counts.saveFailures++;
      const reason = error instanceof Error ? error.message : String(error);
      this.#parts.log({ level: "error", event: "save-failed", session: session.id, reason });
    }
  }

  async #forget(session: Session): Promise<void> {
    (await this.index(session.namespace)).remove(session);
    session.deleted = true;
    await this.abandon(session);
  }
}
