/** @file The memories of sessions in the engine: brought back from the store, used by one at a time, counted and freed. */
import type { Memory } from "../../index.js";
import type { MemoryBudget } from "../memory-budget.js";
import { memoryOptions } from "../models.js";
import type { ServerLimits } from "../options.js";
import type { Scheduler } from "../scheduler.js";
import { refuseDeleted, refuseMoved, stepMissing } from "./refusals.js";
import { restoreMemory } from "./restore-memory.js";
import type { SessionDirectory } from "./session-directory.js";
import type { SessionFiles } from "./session-files.js";
import type { SessionLeases } from "./session-leases.js";
import type { Session, SessionState } from "./session.js";

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

/** What memories are used with. */
export interface SessionMemoriesParts {
  files: SessionFiles;
  directory: SessionDirectory;
  leases: SessionLeases;
  budget: MemoryBudget;
  scheduler: Scheduler;
  limits: ServerLimits;
}

/** Lets work at the memories of sessions. */
export class SessionMemories {
  readonly #parts: SessionMemoriesParts;
  /** Memories brought back from the store so far. */
  restored = 0;

  constructor(parts: SessionMemoriesParts) {
    this.#parts = parts;
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
        return this.#parts.leases.run(session, signal, async (combined) => {
          await this.#parts.directory.refresh(session);
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
          : await restoreMemory(served, setup, await this.#parts.files.snapshot(session, state));
      try {
        return await work(memory, combined);
      } finally {
        await memory.dispose();
      }
    });
  }

  /**
   * Runs `work` on the memory of a session, alone, when it is the namespace's turn and there is room in the engine.
   * @throws what {@link SessionMemories.exclusive} throws; ApiError 409 where its memory cannot be restored, 429, 503
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

  async #open(session: Session): Promise<Memory> {
    if (session.memory !== undefined) return session.memory;
    const { served, setup, head, origin } = session;
    if (head === undefined) {
      session.memory = await served.model.createMemory(memoryOptions(served, setup));
    } else {
      const owner = session.states.length === 0 ? (origin?.session ?? session) : session;
      session.memory = await restoreMemory(served, setup, await this.#parts.files.snapshot(owner, head));
      this.restored++;
    }
    const { method, options } = session.memory;
    session.setup = { ...setup, method, options };
    return session.memory;
  }
}
