/** @file Where a row's keys and values lie: a place in a store, left before a write that another row would see. */
import { KvStore, roomFor } from "./kv-store.js";

/**
 * A place in a store. The place may change, and several rows may read the same one until one of them is written to. It
 * does not know how many slots its row has in use: `held` says so, and only those are taken along.
 */
export class RowPlace {
  #store: KvStore;
  #index: number;
  /** Whether another row may read the same place of the store, so that it must not be written to. */
  #isBorrowed = false;

  /** A place that no other row reads. */
  constructor(store: KvStore, index: number) {
    this.#store = store;
    this.#index = index;
  }

  get store(): KvStore {
    return this.#store;
  }

  /** Which row of {@link RowPlace.store} this is. */
  get index(): number {
    return this.#index;
  }

  /** Element offset of a slot in each layer's array. */
  offset(head: number, slot: number): number {
    return this.#store.offset(this.#index, head, slot);
  }

  /** Keys and values of a layer, of the slots in use: one array per head, [held · headDim], in place. */
  heads(layer: number, held: number): { keys: Float32Array[]; values: Float32Array[] } {
    const { kvHeads, headDim } = this.#store.shape;
    const part = (data: Float32Array): Float32Array[] =>
      Array.from({ length: kvHeads }, (_, head) => {
        const from = this.offset(head, 0);
        return data.subarray(from, from + held * headDim);
      });
    const { keys, values } = this.#store;
    return { keys: part(keys[layer] as Float32Array), values: part(values[layer] as Float32Array) };
  }

  /** Visits keys and values of every layer and head; `base` is the offset of the head's slot 0. */
  eachHead(visit: (data: Float32Array, base: number) => void): void {
    const { layers, kvHeads } = this.#store.shape;
    for (let layer = 0; layer < layers; layer++) {
      for (let head = 0; head < kvHeads; head++) {
        const base = this.offset(head, 0);
        visit(this.#store.keys[layer] as Float32Array, base);
        visit(this.#store.values[layer] as Float32Array, base);
      }
    }
  }

  /** Makes sure that nobody else reads what is going to be written. */
  own(held: number): void {
    if (this.#isBorrowed) this.#moveToOwnStore(held);
  }

  /** Makes sure of that, and of room for `slots` slots. */
  reserve(held: number, slots: number): void {
    if (this.#isBorrowed) this.#moveToOwnStore(held, slots);
    // Growing replaces the arrays inside the store, so rows that share it stay valid.
    else if (slots > this.#store.capacity) this.#store.grow(roomFor(slots));
  }

  /** Gives a row in a store of its own the room that its length asks for. */
  settle(held: number): void {
    if (this.#store.batch === 1 && this.#store.capacity !== roomFor(held)) this.#moveToOwnStore(held);
  }

  /** Moves to a free place of a store that has room for the row. */
  move(store: KvStore, index: number, held: number): void {
    store.copyRow(index, this.#store, this.#index, held);
    this.#store = store;
    this.#index = index;
    this.#isBorrowed = false;
  }

  /** Moves out of a store of several rows into one of its own. */
  detach(held: number): void {
    if (this.#store.batch > 1) this.#moveToOwnStore(held);
  }

  /** A place for another row with the same contents, which are copied once one of the two rows changes. */
  share(held: number): RowPlace {
    const other = new RowPlace(this.#store, this.#index);
    // A place in a store of several rows is given to others in time.
    if (this.#store.batch > 1) other.#moveToOwnStore(held);
    else this.#isBorrowed = other.#isBorrowed = true;
    return other;
  }

  #moveToOwnStore(held: number, slots = held): void {
    this.move(new KvStore(this.#store.shape, 1, roomFor(slots)), 0, held);
  }
}
