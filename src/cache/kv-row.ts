/** @file One sequence's keys and values, slot by slot, inside a store that several sequences may share. */
import { rotateKey, type RotaryConfig } from "../models/rotary.js";
import { KvStore, roomFor, type KvShape } from "./kv-store.js";
import { joinOrigins, type SlotOrigin } from "./slot-origin.js";

/**
 * What a slot holds: a text token, an attention sink, or a compressed summary (of a time step, or of a span within one);
 * no window may hide the last three.
 */
export type SlotKind = "text" | "sink" | "memory" | "span";

/** Rows that a forward pass produced, per layer [batch, seq, kvHeads · headDim]; keys after RoPE. */
export interface NewRows {
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
  readonly seq: number;
}

/** What a row's slots are. */
export interface RowSlots {
  positions: readonly number[];
  kinds: readonly SlotKind[];
  /** Where each slot comes from, as far as it is known. */
  origins?: readonly (SlotOrigin | undefined)[] | undefined;
}

/** A row's contents apart from any store; per layer [kvHeads, slots, headDim], keys after RoPE. */
export interface RowContents {
  keys: Float32Array[];
  values: Float32Array[];
  positions: number[];
  kinds: SlotKind[];
}

/**
 * A growing sequence of slots. Each has a position (where its key was rotated to) and a kind. The row may move between
 * stores, which is how sequences of different lengths are decoded together. Clones read the same store until one of them
 * is written to.
 */
export class KvRow {
  readonly shape: KvShape;
  #store: KvStore;
  #index: number;
  /** Whether a clone may read the same place of the store, so that it must not be written to. */
  #isBorrowed = false;
  #positions: number[] = [];
  #kinds: SlotKind[] = [];
  #origins: (SlotOrigin | undefined)[] = [];

  constructor(shape: KvShape, capacity = 0) {
    this.shape = shape;
    this.#store = new KvStore(shape, 1, capacity);
    this.#index = 0;
  }

  /** Number of slots in use. */
  get length(): number {
    return this.#positions.length;
  }

  get store(): KvStore {
    return this.#store;
  }

  /** Which row of {@link KvRow.store} this is. */
  get index(): number {
    return this.#index;
  }

  get positions(): readonly number[] {
    return this.#positions;
  }

  get kinds(): readonly SlotKind[] {
    return this.#kinds;
  }

  /** Where each slot comes from, as far as it is known. A slot keeps its origin, the very object, until it is merged. */
  get origins(): readonly (SlotOrigin | undefined)[] {
    return this.#origins;
  }

  /** Appends rows `start` to `start + positions.length` of one sequence of a forward pass. */
  append(
    rows: NewRows,
    batchIndex: number,
    start: number,
    positions: readonly number[],
    kind: SlotKind,
    origins: readonly (SlotOrigin | undefined)[] = [],
  ): void {
    const first = this.length;
    this.#reserve(first + positions.length);
    const { kvHeads, headDim, layers } = this.shape;
    const width = kvHeads * headDim;
    for (let layer = 0; layer < layers; layer++) {
      for (const [target, source] of this.#pairs(layer, rows)) {
        for (let i = 0; i < positions.length; i++) {
          const from = (batchIndex * rows.seq + start + i) * width;
          for (let head = 0; head < kvHeads; head++) {
            const at = from + head * headDim;
            target.set(source.subarray(at, at + headDim), this.#store.offset(this.#index, head, first + i));
          }
        }
      }
    }
    for (const [index, position] of positions.entries()) {
      this.#positions.push(position);
      this.#kinds.push(kind);
      this.#origins.push(origins[index]);
    }
  }

  /** Makes the row hold exactly these of its slots, in this order. */
  arrange(slots: readonly number[]): void {
    const { headDim } = this.shape;
    const arranged = new Float32Array(slots.length * headDim);
    // Slots that stay where they are need no copy, and the front of a row often does.
    const moved = slots.findIndex((slot, index) => slot !== index);
    if (moved >= 0) {
      this.#own();
      this.#eachHead((data, base) => {
        for (let i = moved; i < slots.length; i++) {
          const from = base + (slots[i] as number) * headDim;
          arranged.set(data.subarray(from, from + headDim), i * headDim);
        }
        data.set(arranged.subarray(moved * headDim), base + moved * headDim);
      });
    }
    this.#positions = slots.map((slot) => this.#positions[slot] as number);
    this.#kinds = slots.map((slot) => this.#kinds[slot] as SlotKind);
    this.#origins = slots.map((slot) => this.#origins[slot]);
  }

  /** Drops every slot from `length` on. */
  truncate(length: number): void {
    this.#positions.length = Math.min(length, this.length);
    this.#kinds.length = this.#positions.length;
    this.#origins.length = this.#positions.length;
  }

  /** slot ← (1 − weight) · slot + weight · other, for keys and values of every layer and head; takes the other's position. */
  blend(slot: number, other: number, weight: number): void {
    const { headDim } = this.shape;
    this.#own();
    this.#eachHead((data, base) => {
      for (let i = 0; i < headDim; i++) {
        const at = base + slot * headDim + i;
        data[at] = (1 - weight) * (data[at] as number) + weight * (data[base + other * headDim + i] as number);
      }
    });
    this.#positions[slot] = this.#positions[other] as number;
    this.#origins[slot] = joinOrigins([this.#origins[slot], this.#origins[other]]);
  }

  /**
   * Replaces the slots from `first` on by memory slots: one per run of these lengths, the mean of its keys and of its
   * values, at the position of its last slot.
   */
  pool(first: number, runs: readonly number[]): void {
    const { headDim } = this.shape;
    this.#own();
    const ends = runs.map((_, run) => first + runs.slice(0, run + 1).reduce((sum, length) => sum + length, 0));
    this.#eachHead((data, base) => {
      runs.forEach((length, run) => {
        const start = (ends[run] as number) - length;
        for (let i = 0; i < headDim; i++) {
          let sum = 0;
          for (let slot = start; slot < start + length; slot++) sum += data[base + slot * headDim + i] as number;
          data[base + (first + run) * headDim + i] = sum / length;
        }
      });
    });
    this.#positions.splice(first, Infinity, ...ends.map((end) => this.#positions[end - 1] as number));
    this.#kinds.splice(first, Infinity, ...runs.map((): SlotKind => "memory"));
    const pooled = runs.map((length, run) =>
      joinOrigins(this.#origins.slice((ends[run] as number) - length, ends[run] as number)),
    );
    this.#origins.splice(first, Infinity, ...pooled);
  }

  /** Gives every slot an origin object that no other has, by which it can be followed. @returns each with its slot */
  followSlots(): Map<SlotOrigin, number> {
    const nowhere = { firstStep: 0, lastStep: 0, firstToken: 0, endToken: 0 };
    const followed = this.#origins.map((origin): SlotOrigin => ({ ...(origin ?? nowhere) }));
    this.#origins = followed;
    return new Map(followed.map((origin, slot) => [origin, slot]));
  }

  /** Marks a slot as something else. */
  setKind(slot: number, kind: SlotKind): void {
    this.#kinds[slot] = kind;
  }

  /** Gives a slot another position, turning its keys by the difference. */
  moveTo(slot: number, position: number, rotary: readonly RotaryConfig[]): void {
    const delta = position - (this.#positions[slot] as number);
    if (delta === 0) return;
    this.#own();
    const { layers, kvHeads } = this.shape;
    for (let layer = 0; layer < layers; layer++) {
      for (let head = 0; head < kvHeads; head++) {
        const offset = this.#store.offset(this.#index, head, slot);
        rotateKey(rotary[layer] as RotaryConfig, this.#store.keys[layer] as Float32Array, offset, delta);
      }
    }
    this.#positions[slot] = position;
  }

  /**
   * Gives a row in a store of its own the room that its length asks for. The engine's sums are grouped by where slots
   * lie, so equal contents give logits that are equal to the last bit only in equal room.
   */
  settle(): void {
    if (this.#store.batch === 1 && this.#store.capacity !== roomFor(this.length)) this.#moveToOwnStore();
  }

  /** Another row with the same contents, which are copied once one of the two changes. */
  clone(): KvRow {
    const copy = new KvRow(this.shape);
    copy.#positions = [...this.#positions];
    copy.#kinds = [...this.#kinds];
    copy.#origins = [...this.#origins];
    copy.#store = this.#store;
    copy.#index = this.#index;
    // A place in a store of several rows is given to others in time.
    if (this.#store.batch > 1) copy.#moveToOwnStore();
    else this.#isBorrowed = copy.#isBorrowed = true;
    return copy;
  }

  /** Another row with the slots [start, end) of this one and a store of its own. */
  slice(start: number, end: number): KvRow {
    const part = new KvRow(this.shape, roomFor(end - start));
    const { layers, kvHeads, headDim } = this.shape;
    for (let layer = 0; layer < layers; layer++) {
      for (const [target, source] of part.#pairs(layer, this.#store)) {
        for (let head = 0; head < kvHeads; head++) {
          const from = this.#store.offset(this.#index, head, start);
          target.set(source.subarray(from, from + (end - start) * headDim), part.#store.offset(0, head, 0));
        }
      }
    }
    part.#positions = this.#positions.slice(start, end);
    part.#kinds = this.#kinds.slice(start, end);
    part.#origins = this.#origins.slice(start, end);
    return part;
  }

  /** A copy of the contents of the slots in use. */
  export(): RowContents {
    const joined = (heads: readonly Float32Array[]): Float32Array => {
      const size = this.length * this.shape.headDim;
      const compact = new Float32Array(heads.length * size);
      heads.forEach((part, head) => compact.set(part, head * size));
      return compact;
    };
    const layers = Array.from({ length: this.shape.layers }, (_, layer) => this.heads(layer));
    return {
      keys: layers.map(({ keys }) => joined(keys)),
      values: layers.map(({ values }) => joined(values)),
      positions: [...this.#positions],
      kinds: [...this.#kinds],
    };
  }

  /**
   * Keys and values of a layer, of the slots in use: one array per head, [slots · headDim], in place. They are the row's
   * until it moves or grows, and its clones may read them too: only those of a blank row may be written.
   */
  heads(layer: number): { keys: Float32Array[]; values: Float32Array[] } {
    const { kvHeads, headDim } = this.shape;
    const part = (data: Float32Array): Float32Array[] =>
      Array.from({ length: kvHeads }, (_, head) => {
        const from = this.#store.offset(this.#index, head, 0);
        return data.subarray(from, from + this.length * headDim);
      });
    const { keys, values } = this.#store;
    return { keys: part(keys[layer] as Float32Array), values: part(values[layer] as Float32Array) };
  }

  /** A row with such slots in a store of its own; their keys and values are zero until {@link KvRow.heads} are written. */
  static blank(shape: KvShape, { positions, kinds, origins }: RowSlots): KvRow {
    const row = new KvRow(shape, roomFor(positions.length));
    row.#positions = [...positions];
    row.#kinds = [...kinds];
    row.#origins = positions.map((_, slot) => origins?.[slot]);
    return row;
  }

  /** Moves the row to a free place of a store that several rows share and that has room for it. */
  place(store: KvStore, index: number): void {
    store.copyRow(index, this.#store, this.#index, this.length);
    this.#store = store;
    this.#index = index;
    this.#isBorrowed = false;
  }

  /** Moves the row out of a shared store into one of its own. */
  detach(): void {
    if (this.#store.batch > 1) this.#moveToOwnStore();
  }

  #moveToOwnStore(slots = this.length): void {
    this.place(new KvStore(this.shape, 1, roomFor(slots)), 0);
  }

  /** Makes sure that nobody else reads what is going to be written. */
  #own(): void {
    if (this.#isBorrowed) this.#moveToOwnStore();
  }

  #reserve(slots: number): void {
    if (this.#isBorrowed) this.#moveToOwnStore(slots);
    // Growing replaces the arrays inside the store, so rows that share it stay valid.
    else if (slots > this.#store.capacity) this.#store.grow(roomFor(slots));
  }

  #pairs(
    layer: number,
    source: { keys: readonly Float32Array[]; values: readonly Float32Array[] },
  ): [Float32Array, Float32Array][] {
    return [
      [this.#store.keys[layer] as Float32Array, source.keys[layer] as Float32Array],
      [this.#store.values[layer] as Float32Array, source.values[layer] as Float32Array],
    ];
  }

  /** Visits keys and values of every layer and head; `base` is the offset of the head's slot 0. */
  #eachHead(visit: (data: Float32Array, base: number) => void): void {
    for (let layer = 0; layer < this.shape.layers; layer++) {
      for (let head = 0; head < this.shape.kvHeads; head++) {
        const base = this.#store.offset(this.#index, head, 0);
        visit(this.#store.keys[layer] as Float32Array, base);
        visit(this.#store.values[layer] as Float32Array, base);
      }
    }
  }
}
