/** @file Who uses the engine when: as many at once as there is memory for, keys in turn, and no endless queues. */
import { AbortListeners } from "../abort-listeners.js";
import { ApiError } from "./api-error.js";
import type { MemoryBudget } from "./memory-budget.js";

/** What a request is about to do. */
export interface Job {
  /** Whose it is; those of different keys take turns. */
  key: string;
  /** Bytes of keys and values that it needs at most. */
  bytes: number;
  signal?: AbortSignal | undefined;
}

interface Waiting {
  job: Job;
  admit: () => void;
  refuse: (error: unknown) => void;
}

/** Observes a scheduler. */
export interface SchedulerEvents {
  onRejected?: (reason: "queue" | "memory" | "closing") => void;
}

/** Admits jobs. */
export class Scheduler {
  readonly #budget: MemoryBudget;
  readonly #concurrency: number;
  readonly #queueLimit: number;
  readonly #events: SchedulerEvents;
  /** Queues by key; the first key is the next one served. */
  readonly #queues = new Map<string, Waiting[]>();
  readonly #shutdown = new AbortController();
  readonly #listeners = new AbortListeners();
  #running = 0;
  #queued = 0;
  #closing = false;
  #onIdle: (() => void) | undefined;

  constructor(budget: MemoryBudget, limits: { concurrency: number; queue: number }, events: SchedulerEvents = {}) {
    this.#budget = budget;
    this.#concurrency = limits.concurrency;
    this.#queueLimit = limits.queue;
    this.#events = events;
  }

  /** Jobs at work. */
  get running(): number {
    return this.#running;
  }

  /** Jobs that wait. */
  get queued(): number {
    return this.#queued;
  }

  /**
   * Runs `work` when it is the job's turn. Its signal fires with the job's own, or when the server can wait no longer.
   * @throws ApiError 400 for a job that never fits, 429 where too many wait, 503 while closing
   */
  run<Result>(job: Job, work: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
    return this.#listeners.withAny([this.#shutdown.signal, job.signal], (signal) =>
      this.#runAdmitted({ ...job, signal }, work),
    );
  }

  async #runAdmitted<Result>(
    job: Job & { signal: AbortSignal },
    work: (signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const { signal } = job;
    signal.throwIfAborted();
    await this.#admission(job);
    try {
      // Where several are cancelled at once, one that leaves the queue may have let in one that is next to be cancelled.
      signal.throwIfAborted();
      return await work(signal);
    } catch (error) {
      // Whoever cancelled has said why.
      throw signal.aborted ? signal.reason : error;
    } finally {
      this.#budget.release(job.bytes);
      this.#running--;
      this.#pump();
      if (this.#running === 0 && this.#queued === 0) this.#onIdle?.();
    }
  }

  /** Takes no new jobs, gives those there are `graceMs` to end, and cancels the rest. Resolves when none is left. */
  async close(graceMs: number): Promise<void> {
    this.#closing = true;
    if (this.#running === 0 && this.#queued === 0) return;
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
    const timer = setTimeout(() => {
      this.#shutdown.abort(new ApiError(503, "shutting_down", "The server is shutting down.", { retryAfter: 5 }));
    }, graceMs);
    await idle;
    clearTimeout(timer);
  }

  async #admission(job: Job): Promise<void> {
    if (this.#closing) {
      this.#events.onRejected?.("closing");
      throw new ApiError(503, "shutting_down", "The server is shutting down.", { retryAfter: 5 });
    }
    if (job.bytes > this.#budget.limit) {
      this.#events.onRejected?.("memory");
      const sizes = `${job.bytes} bytes of keys and values, and the server may hold ${this.#budget.limit}`;
      throw new ApiError(400, "memory_budget_exceeded", `This request may need ${sizes}.`, {
        nextStep: "Send less text, ask for fewer tokens or choices, or start the server with a larger --memory.",
      });
    }
    if (this.#queued === 0 && this.#start(job)) return;
    if (this.#queued >= this.#queueLimit) {
      this.#events.onRejected?.("queue");
      throw new ApiError(429, "queue_full", `${this.#queued} requests are waiting already.`, {
        nextStep: "Try again later.",
        retryAfter: 1 + this.#queued / this.#concurrency,
      });
    }
    await new Promise<void>((resolve, reject) => this.#enqueue(job, resolve, reject));
  }

  #enqueue(job: Job, resolve: () => void, reject: (error: unknown) => void): void {
    const { key, signal } = job;
    const leave = (): void => {
      this.#remove(waiting);
      reject(signal?.reason);
      this.#pump();
      if (this.#running === 0 && this.#queued === 0) this.#onIdle?.();
    };
    const waiting: Waiting = {
      job,
      admit: () => {
        signal?.removeEventListener("abort", leave);
        resolve();
      },
      refuse: (error) => {
        signal?.removeEventListener("abort", leave);
        reject(error);
      },
    };
    signal?.addEventListener("abort", leave, { once: true });
    this.#queues.set(key, [...(this.#queues.get(key) ?? []), waiting]);
    this.#queued++;
    this.#pump();
  }

  #remove(waiting: Waiting): void {
    const { key } = waiting.job;
    const queue = this.#queues.get(key) ?? [];
    const rest = queue.filter((other) => other !== waiting);
    this.#queued -= queue.length - rest.length;
    if (rest.length === 0) this.#queues.delete(key);
    else this.#queues.set(key, rest);
  }

  /** Admits who can go now. A job that lacks memory holds up those behind it, so that it is not starved by small ones. */
  #pump(): void {
    for (;;) {
      const [first] = this.#queues.values();
      const waiting = first?.[0];
      if (waiting === undefined) return;
      if (!this.#start(waiting.job)) {
        if (this.#running > 0) return;
        this.#remove(waiting);
        this.#events.onRejected?.("memory");
        waiting.refuse(
          new ApiError(503, "memory_full", "Sessions that cannot be saved fill the server's memory.", {
            retryAfter: 10,
          }),
        );
        continue;
      }
      this.#remove(waiting);
      // The key goes to the end of the line.
      const rest = this.#queues.get(waiting.job.key);
      if (rest !== undefined) {
        this.#queues.delete(waiting.job.key);
        this.#queues.set(waiting.job.key, rest);
      }
      waiting.admit();
    }
  }

  #start(job: Job): boolean {
    if (this.#running >= this.#concurrency || !this.#budget.reserve(job.bytes)) return false;
    this.#running++;
    return true;
  }
}
