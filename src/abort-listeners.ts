/** @file Listening to signals that outlive the work: one listener per signal while work goes on, and none afterwards. */

/**
 * Callbacks on signals. However many wait for one signal, it carries one listener of each instance, so that Node does not
 * take many calls at once for a leak; with the last callback that is taken back, the listener goes too.
 */
export class AbortListeners {
  readonly #waiting = new Map<AbortSignal, { callbacks: Set<() => void>; listener: () => void }>();

  /**
   * Calls `callback` once, when `signal` fires.
   * @param signal that has not fired yet
   * @returns takes the callback back; may be called at any time, and again
   */
  add(signal: AbortSignal, callback: () => void): () => void {
    const { callbacks } = this.#waiting.get(signal) ?? this.#listen(signal);
    // Of its own, so that the same function may be given twice.
    const entry = (): void => callback();
    callbacks.add(entry);
    return () => {
      callbacks.delete(entry);
      if (callbacks.size === 0) this.#leave(signal, callbacks);
    };
  }

  /**
   * Runs `work` with a signal that fires with the first of `signals`, for the same reason. AbortSignal.any would do, but
   * Node keeps an entry on every source for each signal that it makes, for as long as the source lives.
   */
  async withAny<Result>(
    signals: readonly (AbortSignal | undefined)[],
    work: (signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const controller = new AbortController();
    const removals: (() => void)[] = [];
    for (const source of signals) {
      if (source === undefined) continue;
      if (source.aborted) controller.abort(source.reason);
      else removals.push(this.add(source, () => controller.abort(source.reason)));
    }
    try {
      return await work(controller.signal);
    } finally {
      for (const remove of removals) remove();
    }
  }

  #listen(signal: AbortSignal): { callbacks: Set<() => void>; listener: () => void } {
    const callbacks = new Set<() => void>();
    const listener = (): void => {
      this.#waiting.delete(signal);
      for (const callback of callbacks) callback();
    };
    const waiting = { callbacks, listener };
    this.#waiting.set(signal, waiting);
    signal.addEventListener("abort", listener, { once: true });
    return waiting;
  }

  #leave(signal: AbortSignal, callbacks: Set<() => void>): void {
    const waiting = this.#waiting.get(signal);
    // Others may have come since.
    if (waiting?.callbacks !== callbacks) return;
    this.#waiting.delete(signal);
    signal.removeEventListener("abort", waiting.listener);
  }
}
