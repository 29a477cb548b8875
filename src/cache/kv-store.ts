/** @file The arrays behind one or more cache rows, laid out as the engine reads them. */
import { PrecisError } from "../errors.js";

/** Dimensions that all rows of a model share. */
export interface KvShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Bytes of one slot: keys and values of all layers and heads in float32. */
export function slotBytes(shape: KvShape): number {
  return shape.layers * 2 * shape.kvHeads * shape.headDim * 4;
}

/** Most slots that room grows by at once: attention computes over what is spare at every step. */
const LARGEST_STEP = 64;

/** Slots of room for a row of `length`: a little more, so that it can grow a while in place; none for none. */
export function roomFor(length: number): number {
  if (length === 0) return 0;
  const step = Math.min(LARGEST_STEP, Math.max(8, 2 ** (Math.floor(Math.log2(length)) - 3)));
  // Half a step ahead, so that windows of round sizes do not grow and shrink at every token.
  return Math.ceil((length + step / 2) / step) * step;
}

/**
 * Keys and values per layer, [batch, kvHeads, capacity, headDim]. Slots beyond a row's length hold garbage that the
 * attention bias hides; so appending writes one slot in place and a run needs no copy.
 */
export class KvStore {
  readonly shape: KvShape;
  readonly batch: number;
  keys: Float32Array[];
  values: Float32Array[];
  #capacity: number;

  /** @throws OUT_OF_MEMORY if the arrays cannot be allocated */
  constructor(shape: KvShape, batch: number, capacity: number) {
    this.shape = shape;
    this.batch = batch;
    this.#capacity = capacity;
    this.keys = this.#allocate(capacity);
    this.values = this.#allocate(capacity);
  }

  /** Slots per row. */
  get capacity(): number {
    return this.#capacity;
  }

  /** Element offset of a slot in each layer's array. */
  offset(row: number, head: number, slot: number): number {
    return ((row * this.shape.kvHeads + head) * this.#capacity + slot) * this.shape.headDim;
  }

  /** Makes room for `capacity` slots per row. */
  grow(capacity: number): void {
    const wider = new KvStore(this.shape, this.batch, capacity);
    for (let row = 0; row < this.batch; row++) wider.copyRow(row, this, row, this.#capacity);
    this.keys = wider.keys;
    this.values = wider.values;
    this.#capacity = capacity;
  }

  /** Copies `slots` slots of a row of another store, those from `first` on, to the front of a row. */
  copyRow(row: number, source: KvStore, sourceRow: number, slots: number, first = 0): void {
    const length = slots * this.shape.headDim;
    for (let layer = 0; layer < this.shape.layers; layer++) {
      for (let head = 0; head < this.shape.kvHeads; head++) {
        const from = source.offset(sourceRow, head, first);
        const to = this.offset(row, head, 0);
        (this.keys[layer] as Float32Array).set((source.keys[layer] as Float32Array).subarray(from, from + length), to);
        (this.values[layer] as Float32Array).set(
          (source.values[layer] as Float32Array).subarray(from, from + length),
          to,
        );
      }
    }
  }

  #allocate(capacity: number): Float32Array[] {
    const { layers, kvHeads, headDim } = this.shape;
    try {
      return Array.from({ length: layers }, () => new Float32Array(this.batch * kvHeads * capacity * headDim));
    } catch (error) {
      throw new PrecisError("OUT_OF_MEMORY", `No room for a cache of ${this.batch} x ${capacity} slots.`, {
        value: capacity,
        cause: error,
        nextStep:
          "Use a bounded memory method such as ccm-merge or streaming, fewer sessions, or a machine with more memory.",
      });
    }
  }
}
