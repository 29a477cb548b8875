/** @file Ctrl-C as an AbortSignal. */

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
