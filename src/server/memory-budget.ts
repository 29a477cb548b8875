/** @file How many bytes of keys and values the engine holds, and which idle sessions leave it when more are needed. */

/** Something that holds memory in the engine and can give it back. */
export interface Resident {
  /** Whether it is unused and saved, so that it may go now. */
  readonly evictable: boolean;
  /** Lets go; the bytes count as free at once. */
  evict: () => void;
}

/** Bytes held by idle sessions and promised to running requests, never more than the limit if it can be helped. */
export class MemoryBudget {
  readonly limit: number;
  /** In the order of use, the longest unused first. */
  readonly #held = new Map<Resident, number>();
  #heldBytes = 0;
  #reservedBytes = 0;

  constructor(limit: number) {
    this.limit = limit;
  }

  /** Bytes held and promised. */
  get used(): number {
    return this.#heldBytes + this.#reservedBytes;
  }

  /** Bytes of sessions in the engine. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Sessions in the engine. */
  get residents(): number {
    return this.#held.size;
  }

  /** Notes that something was used just now and holds so much. */
  hold(resident: Resident, bytes: number): void {
    this.drop(resident);
    this.#held.set(resident, bytes);
    this.#heldBytes += bytes;
  }

  /** Notes that something holds nothing any more. */
  drop(resident: Resident): void {
    this.#heldBytes -= this.#held.get(resident) ?? 0;
    this.#held.delete(resident);
  }

  /** Promises bytes to a request, if need be by sending idle sessions away. @returns whether there is room */
  reserve(bytes: number): boolean {
    for (const resident of this.#held.keys()) {
      if (this.used + bytes <= this.limit) break;
      if (!resident.evictable) continue;
      this.drop(resident);
      resident.evict();
    }
    if (this.used + bytes > this.limit) return false;
    this.#reservedBytes += bytes;
    return true;
  }

  /** Takes a promise back. */
  release(bytes: number): void {
    this.#reservedBytes -= bytes;
  }
}
