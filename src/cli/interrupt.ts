/** @file Ctrl-C as an AbortSignal, and as the end of a command that runs until then. */

/**
 * Runs `work` with a signal that fires at the first Ctrl-C, so that work can end cleanly. A second Ctrl-C finds no handler
 * and ends the process at once.
 */
export async function interruptible<Result>(work: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
  const abort = new AbortController();
  const onInterrupt = (): void => abort.abort();
  process.once("SIGINT", onInterrupt);
  try {
    return await work(abort.signal);
  } finally {
    process.off("SIGINT", onInterrupt);
  }
}

/** Resolves at Ctrl-C or SIGTERM; the next one finds no handler and ends the process at once. */
export function untilStopped(): Promise<void> {
  return new Promise((resolve) => {
    const stop = (): void => {
      process.off("SIGINT", stop);
      process.off("SIGTERM", stop);
      resolve();
    };
    process.on("SIGINT", stop);
    process.on("SIGTERM", stop);
  });
}
