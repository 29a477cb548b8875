/** @file Which sessions a server holds: those used last, up to a number of bytes. */

const NONE = -1;

/** Least recently used, over ids 0 … count - 1, in a few flat arrays so that millions fit. */
export class LruCache {
  readonly #capacity: number;
  readonly #newer: Int32Array;
  readonly #older: Int32Array;
  /** 0 for what is not held. */
  readonly #bytes: Float64Array;
  #newest: number = NONE;
  #oldest: number = NONE;
  #held = 0;
  #count = 0;

  constructor(count: number, capacity: number) {
    this.#capacity = capacity;
    this.#newer = new Int32Array(count).fill(NONE);
    this.#older = new Int32Array(count).fill(NONE);
    this.#bytes = new Float64Array(count);
  }

  /** Bytes held. */
  get held(): number {
    return this.#held;
  }

  /** Sessions held. */
  get count(): number {
    return this.#count;
  }

  /** Notes that a session is used and then holds so many bytes; the oldest make room. @returns whether it was held */
  use(id: number, bytes: number): boolean {
    const wasHeld = (this.#bytes[id] as number) > 0;
    if (wasHeld) this.#drop(id);
    this.#older[id] = this.#newest;
    this.#newer[id] = NONE;
    if (this.#newest !== NONE) this.#newer[this.#newest] = id;
    this.#newest = id;
    if (this.#oldest === NONE) this.#oldest = id;
    this.#bytes[id] = bytes;
    this.#held += bytes;
    this.#count++;
    while (this.#held > this.#capacity && this.#oldest !== id) this.#drop(this.#oldest);
    return wasHeld;
  }

  #drop(id: number): void {
    const [newer, older] = [this.#newer[id] as number, this.#older[id] as number];
    if (newer === NONE) this.#newest = older;
    else this.#older[newer] = older;
    if (older === NONE) this.#oldest = newer;
    else this.#newer[older] = newer;
    this.#held -= this.#bytes[id] as number;
    this.#bytes[id] = 0;
    this.#count--;
  }
}
