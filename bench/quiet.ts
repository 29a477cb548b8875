/** @file Notices other programs on the machine, since a benchmark beside a busy neighbour measures the neighbour. */
import { cpus } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** Share of all cores that others may use before a measurement counts as disturbed. */
export const DISTURBED = 0.1;

/** How long one look at the machine takes. */
const PROBE_MS = 250;

/** Processor time since boot in milliseconds: of everybody, and of this process alone. */
interface CpuTimes {
  all: number;
  own: number;
  at: number;
}

function readTimes(): CpuTimes {
  const { user, system } = process.cpuUsage();
  const all = cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0);
  return { all, own: (user + system) / 1000, at: performance.now() };
}

/**
 * Starts watching; the returned function gives the share of all cores that other processes used since.
 * @param ownMs processor time so far of further processes that belong to the measurement, in milliseconds
 */
export function watchOthers(ownMs: () => number = () => 0): () => number {
  const start = readTimes();
  const startMs = ownMs();
  return () => {
    const end = readTimes();
    const others = end.all - start.all - (end.own - start.own) - (ownMs() - startMs);
    return Math.max(0, others / ((end.at - start.at) * cpus().length));
  };
}

/** Time that a run may spend on waiting for others; shared by all its measurements. */
export class Patience {
  #leftMs: number;

  constructor(seconds: number) {
    this.#leftMs = 1000 * seconds;
  }

  /** Whether there is any left. */
  get left(): boolean {
    return this.#leftMs > 0;
  }

  /** Waits until others leave the machine alone, or patience ends. */
  async awaitQuiet(): Promise<void> {
    while (this.left) {
      const others = watchOthers();
      const startedAt = performance.now();
      await sleep(PROBE_MS);
      if (others() < DISTURBED) return;
      this.#leftMs -= performance.now() - startedAt;
    }
  }

  /** Takes the time of a measurement that has to be repeated. */
  spend(milliseconds: number): void {
    this.#leftMs -= milliseconds;
  }
}
