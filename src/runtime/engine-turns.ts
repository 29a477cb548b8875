/** @file Whose run is next: answers in the making go on while prompts are read, and neither waits for all of the other. */
import { performance } from "node:perf_hooks";

/** What a run is part of: one step of all answers, or reading and compressing, of one memory or of a few at once. */
export type RunKind = "decode" | "read";

/** For how long others may read between two decoding steps; a run that has begun ends. */
const READING_MS = 40;

/**
 * Runs one thing at a time. Reading goes first, since a prompt that has been read joins the batch and shares its steps;
 * but once it has kept a decoding step waiting for a while, that step is next.
 */
export class EngineTurns {
  readonly #waiting: Record<RunKind, (() => void)[]> = { decode: [], read: [] };
  readonly #now: () => number;
  #busy = false;
  #decodedAt = -Infinity;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Runs `work` when it is its turn; those of one kind in the order of asking. */
  async take<Result>(kind: RunKind, work: () => Promise<Result>): Promise<Result> {
    if (this.#busy) {
      await new Promise<void>((resolve) => {
        this.#waiting[kind].push(resolve);
      });
    }
    this.#busy = true;
    try {
      return await work();
    } finally {
      if (kind === "decode") this.#decodedAt = this.#now();
      this.#passOn();
    }
  }

  /** Lets the next one go; the engine stays taken in between. */
  #passOn(): void {
    const { decode, read } = this.#waiting;
    const isDue = read.length === 0 || this.#now() - this.#decodedAt >= READING_MS;
    const next = decode.length > 0 && isDue ? decode.shift() : (read.shift() ?? decode.shift());
    if (next === undefined) this.#busy = false;
    else next();
  }
}
