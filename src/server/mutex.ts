/** @file A lock that is taken in the order in which it was asked for, with a limit on how many may wait. */
import { ApiError } from "./api-error.js";

/** One at a time. */
export class Mutex {
  #waiting: (() => void)[] = [];
  #held = false;

  /** Whether somebody holds it. */
  get held(): boolean {
    return this.#held;
  }

  /**
   * Runs `work` after everybody who asked earlier.
   * @throws ApiError 429 where `limit` are waiting already; what the signal was aborted with
   */
  async run<Result>(
    work: () => Promise<Result>,
    { limit = Infinity, signal }: { limit?: number; signal?: AbortSignal | undefined } = {},
  ): Promise<Result> {
    await this.#acquire(limit, signal);
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#held = false;
      else next();
    }
  }

  async #acquire(limit: number, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (!this.#held) {
      this.#held = true;
      return;
    }
    if (this.#waiting.length >= limit) {
      throw new ApiError(429, "session_busy", `${limit} requests are waiting for this session already.`, {
        nextStep: "Send the next turn of a session when the last one was answered, or fork it.",
        retryAfter: 1,
      });
    }
    await new Promise<void>((resolve, reject) => {
      const go = (): void => {
        signal?.removeEventListener("abort", leave);
        resolve();
      };
      const leave = (): void => {
        this.#waiting = this.#waiting.filter((other) => other !== go);
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", leave, { once: true });
      this.#waiting.push(go);
    });
  }
}
