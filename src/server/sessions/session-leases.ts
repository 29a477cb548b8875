/** @file Only one of the servers that share a store works on a session at a time; the others wait for their turn. */
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { AbortListeners } from "../../abort-listeners.js";
import { PrecisError } from "../../errors.js";
import type { Lease, SessionKey, SessionStore } from "../../index.js";
import { ApiError } from "../api-error.js";
import type { Session } from "./session.js";

/** How long a server keeps its place as the next one without renewing it. */
const NEXT_MS = 2000;
/** Pauses between attempts, from and to. */
const PAUSE_MS: readonly [number, number] = [8, 32];
/** A server that had the session so recently goes to the end of the line. */
const RECENT_MS = 1000;

/** How long leases last, and how long to wait for one. */
export interface LeaseTimes {
  leaseMs: number;
  sessionWaitMs: number;
}

interface Held {
  lease: Lease;
  /** When it ends unless renewed, by this process's own clock. */
  ends: number;
}

function isHeld(error: unknown): boolean {
  return error instanceof PrecisError && error.code === "LEASE_HELD";
}

function keyOf({ namespace, id }: SessionKey): SessionKey {
  return { namespace, id };
}

/** The key of the place in line behind the server that works on a session; no session has a dot in its id. */
function nextKey({ namespace, id }: SessionKey): SessionKey {
  return { namespace, id: `${id}.next` };
}

/**
 * Leases of sessions. So that a busy server does not keep the others out for ever, whoever has to wait takes the place of
 * the next one, and a server that just had the session does not get it again while somebody is next.
 */
export class SessionLeases {
  readonly #store: SessionStore;
  readonly #times: LeaseTimes;
  readonly #holder: string;
  readonly #listeners = new AbortListeners();
  /** Leases that could not be given back, by session. */
  readonly #leftOver = new Map<string, Lease>();

  constructor(store: SessionStore, times: LeaseTimes) {
    this.#store = store;
    this.#times = times;
    this.#holder = `precis ${hostname()
      .replace(/[^\x20-\x7e]/g, "?")
      .slice(0, 60)}:${process.pid}`;
  }

  /**
   * Runs `work` while no other server works on the session. The signal that it gets fires with `signal`, and when the lease
   * is lost.
   * @throws ApiError 429 where another server works on it for too long, 503 where the lease was lost; STORE_UNAVAILABLE
   */
  async run<Result>(
    session: Session,
    signal: AbortSignal | undefined,
    work: (signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    return this.#hold(session, await this.#acquire(session, signal), { signal, work });
  }

  /** {@link SessionLeases.run} without waiting. @throws LEASE_HELD */
  async runNow(session: Session, work: () => Promise<void>): Promise<void> {
    const { leaseMs } = this.#times;
    const ends = performance.now() + leaseMs;
    const lease = await this.#store.acquireLease(keyOf(session), this.#holder, leaseMs);
    await this.#hold(session, { lease, ends }, { signal: undefined, work });
  }

  async #hold<Result>(
    session: Session,
    held: Held,
    { signal, work }: { signal: AbortSignal | undefined; work: (signal: AbortSignal) => Promise<Result> },
  ): Promise<Result> {
    const lost = new AbortController();
    const timer = setInterval(() => void this.#renew(held, session, lost), this.#times.leaseMs / 3);
    try {
      return await this.#listeners.withAny([signal, lost.signal], work);
    } finally {
      clearInterval(timer);
      session.leftAt = performance.now();
      await this.#release(held.lease);
    }
  }

  async #acquire(session: Session, signal: AbortSignal | undefined): Promise<Held> {
    const deadline = performance.now() + this.#times.sessionWaitMs;
    const leftOver = this.#leftOver.get(nameOf(session));
    if (leftOver !== undefined) await this.#release(leftOver);
    if (performance.now() - session.leftAt > RECENT_MS) {
      const free = await this.#attempt(keyOf(session), this.#times.leaseMs);
      if (free !== undefined) return free;
    }
    const next = await this.#wait(session, { key: nextKey(session), ms: NEXT_MS, deadline, signal });
    try {
      const { leaseMs: ms } = this.#times;
      return await this.#wait(session, { key: keyOf(session), ms, deadline, signal, next });
    } finally {
      await this.#release(next.lease);
    }
  }

  async #wait(
    session: Session,
    wanted: { key: SessionKey; ms: number; deadline: number; signal: AbortSignal | undefined; next?: Held },
  ): Promise<Held> {
    const { key, ms, deadline, signal, next } = wanted;
    for (;;) {
      signal?.throwIfAborted();
      const free = await this.#attempt(key, ms);
      if (free !== undefined) return free;
      if (performance.now() > deadline) throw busy(session);
      if (next !== undefined && next.ends - performance.now() < NEXT_MS / 2) await this.#keepPlace(next);
      const [least, most] = PAUSE_MS;
      await sleep(least + Math.random() * (most - least));
    }
  }

  async #attempt(key: SessionKey, ms: number): Promise<Held | undefined> {
    const ends = performance.now() + ms;
    try {
      return { lease: await this.#store.acquireLease(key, this.#holder, ms), ends };
    } catch (error) {
      if (isHeld(error)) return undefined;
      throw error;
    }
  }

  /** Renews the place in line; somebody else may have it by now, which costs only fairness. */
  async #keepPlace(next: Held): Promise<void> {
    const ends = performance.now() + NEXT_MS;
    const renewed = await this.#store.renewLease(next.lease, NEXT_MS).catch((error: unknown) => {
      if (error instanceof PrecisError && error.code === "LEASE_LOST") return next.lease;
      throw error;
    });
    Object.assign(next, { lease: renewed, ends });
  }

  async #renew(held: Held, session: Session, lost: AbortController): Promise<void> {
    const { leaseMs } = this.#times;
    const ends = performance.now() + leaseMs;
    try {
      held.lease = await this.#store.renewLease(held.lease, leaseMs);
      held.ends = ends;
    } catch (error) {
      const isLost = error instanceof PrecisError && error.code === "LEASE_LOST";
      // A store that cannot be reached for a moment may still have it.
      if (isLost || performance.now() > held.ends) lost.abort(leaseLost(session, error));
    }
  }

  async #release(lease: Lease): Promise<void> {
    try {
      await this.#store.releaseLease(lease);
      this.#leftOver.delete(nameOf(lease.key));
    } catch {
      // It ends by itself; until then nobody but this server could end it earlier.
      if (lease.expires > Date.now()) this.#leftOver.set(nameOf(lease.key), lease);
      else this.#leftOver.delete(nameOf(lease.key));
    }
  }
}

function nameOf({ namespace, id }: SessionKey): string {
  return `${namespace}/${id}`;
}

function busy({ id }: Session): ApiError {
  return new ApiError(429, "session_busy", `Another server has been working on session "${id}" for too long.`, {
    nextStep: "Send the request again.",
    retryAfter: 1,
  });
}

function leaseLost({ id }: Session, cause: unknown): ApiError {
  return new ApiError(503, "session_lease_lost", `The server could not keep session "${id}" for itself.`, {
    nextStep: "Send the request again; nothing of it was kept.",
    retryAfter: 1,
    cause,
  });
}
