/** @file The memories of a model, by the numbers that the main thread knows them by. */
import { PrecisError } from "../errors.js";
import type { MemoryEntry } from "./memory-entry.js";
import type { MemoryInfo } from "./protocol.js";

/** Memories from when they are made until they are disposed; a number is given only once. */
export class MemoryTable {
  readonly #entries = new Map<number, MemoryEntry>();
  #nextId = 1;

  /** Gives a memory its number. */
  add(entry: MemoryEntry): MemoryInfo {
    const id = this.#nextId++;
    this.#entries.set(id, entry);
    return entry.info(id);
  }

  /** @throws DISPOSED if there is no such memory any more */
  get(id: number): MemoryEntry {
    const entry = this.#entries.get(id);
    if (entry !== undefined) return entry;
    throw new PrecisError("DISPOSED", "This memory was disposed.", { nextStep: "Create another one." });
  }

  /**
   * Runs `work` on a memory after everything asked of it earlier.
   * @throws DISPOSED if there is no such memory any more
   */
  locked<Result>(id: number, work: (entry: MemoryEntry) => Promise<Result>): Promise<Result> {
    const entry = this.get(id);
    return entry.exclusive(() => work(entry));
  }

  /** Stops waiting for a memory's function that chooses spans, which may take its time to answer. */
  cancelAsking(id: number): void {
    this.#entries.get(id)?.session.spanAsker?.cancel();
  }

  /** Forgets a memory, if it is still there, and lets go of its function that chooses spans. */
  dispose(id: number): void {
    this.#entries.get(id)?.session.spanAsker?.close();
    this.#entries.delete(id);
  }

  /** Forgets all memories. */
  clear(): void {
    this.#entries.clear();
  }
}
