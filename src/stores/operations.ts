/** @file What every operation of a store has around it: refused once closed, awaited when closing, errors with a code. */
import { closedStore, unavailable } from "./conflicts.js";

/** The operations of one store. */
export class Operations {
  readonly #store: string;
  readonly #running = new Set<Promise<unknown>>();
  #closing: Promise<void> | undefined;

  /** @param store what errors call it */
  constructor(store: string) {
    this.#store = store;
  }

  /** The result of `work`. @throws STORE_UNAVAILABLE for whatever is no PrecisError already, and once closed */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closing !== undefined) throw closedStore(this.#store);
    const running = work();
    this.#running.add(running);
    try {
      return await running;
    } catch (error) {
      throw unavailable(this.#store, error);
    } finally {
      this.#running.delete(running);
    }
  }

  /** Refuses what comes from now on, waits for what runs, and then calls `release`, once. */
  close(release: () => Promise<void> | void = () => undefined): Promise<void> {
    this.#closing ??= Promise.allSettled(this.#running).then(release);
    return this.#closing;
  }
}
