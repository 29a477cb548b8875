/** @file State that components follow. */
import { useEffect, useState } from "preact/hooks";

/** Something that tells when it has changed. */
export class Observable {
  readonly #listeners = new Set<() => void>();
  #pending = false;

  /** Calls `listener` after changes; the returned function ends that. */
  observe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tells everybody, once for all changes of a moment. */
  protected changed(): void {
    if (this.#pending) return;
    this.#pending = true;
    queueMicrotask(() => {
      this.#pending = false;
      for (const listener of this.#listeners) listener();
    });
  }
}

/** Draws the component again whenever one of these changes. */
export function useObserved(...observed: readonly Observable[]): void {
  const [, draw] = useState(0);
  useEffect(() => {
    const ends = observed.map((each) => each.observe(() => draw((count) => count + 1)));
    return () => ends.forEach((end) => end());
    // The list may be a new one with the same members.
  }, observed);
}
