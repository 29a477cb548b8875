/** @file One sequence's keys and values, slot by slot, inside a store that several sequences may share. */
import { rotateKey, type RotaryConfig } from "../models/rotary.js";
import { KvStore, roomFor, type KvShape } from "./kv-store.js";
import { RowPlace } from "./row-place.js";
import { SlotList, type RowSlots, type SlotKind } from "./slot-list.js";
import type { SlotOrigin } from "./slot-origin.js";

/** Rows that a forward pass produced, per layer [batch, seq, kvHeads · headDim]; keys after RoPE. */
export interface NewRows {
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
  readonly seq: number;
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
  #place: RowPlace;
  #slots = new SlotList();

  constructor(shape: KvShape, capacity = 0) {
    this.shape = shape;
    this.#place = new RowPlace(new KvStore(shape, 1, capacity), 0);
  }

  /** Number of slots in use. */
  get length(): number {
    return this.#slots.length;
  }

  get store(): KvStore {
    return this.#place.store;
  }

  /** Which row of {@link KvRow.store} this is. */
  get index(): number {
    return this.#place.index;
  }

  get positions(): readonly number[] {
    return this.#slots.positions;
  }

  get kinds(): readonly SlotKind[] {
    return this.#slots.kinds;
  }

  /** Where each slot comes from, as far as it is known. A slot keeps its origin, the very object, until it is merged. */
  get origins(): readonly (SlotOrigin | undefined)[] {
    return this.#slots.origins;
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
    this.#place.reserve(first, first + positions.length);
    const { kvHeads, headDim, layers } = this.shape;
    const width = kvHeads * headDim;
    for (let layer = 0; layer < layers; layer++) {
      const pairs = [
        [this.store.keys[layer], rows.keys[layer]],
        [this.store.values[layer], rows.values[layer]],
      ] as [Float32Array, Float32Array][];
      for (const [target, source] of pairs) {
        for (let i = 0; i < positions.length; i++) {
          const from = (batchIndex * rows.seq + start + i) * width;
          for (let head = 0; head < kvHeads; head++) {
            const at = from + head * headDim;
            target.set(source.subarray(at, at + headDim), this.#place.offset(head, first + i));
          }
        }
      }
    }
    this.#slots.append(positions, kind, origins);
  }

  /** Makes the row hold exactly these of its slots, in this order. */
  arrange(slots: readonly number[]): void {
    const { headDim } = this.shape;
    const arranged = new Float32Array(slots.length * headDim);
    // Slots that stay where they are need no copy, and the front of a row often does.
    const moved = slots.findIndex((slot, index) => slot !== index);
    if (moved >= 0) {
      this.#place.own(this.length);
      this.#place.eachHead((data, base) => {
        for (let i = moved; i < slots.length; i++) {
          const from = base + (slots[i] as number) * headDim;
          arranged.set(data.subarray(from, from + headDim), i * headDim);
        }
        data.set(arranged.subarray(moved * headDim), base + moved * headDim);
      });
    }
    this.#slots.arrange(slots);
  }

  /** Drops every slot from `length` on. */
  truncate(length: number): void {
    this.#slots.truncate(length);
  }

  /** slot ← (1 − weight) · slot + weight · other, for keys and values of every layer and head; takes the other's position. */
  blend(slot: number, other: number, weight: number): void {
    const { headDim } = this.shape;
    this.#place.own(this.length);
    this.#place.eachHead((data, base) => {
      for (let i = 0; i < headDim; i++) {
        const at = base + slot * headDim + i;
        data[at] = (1 - weight) * (data[at] as number) + weight * (data[base + other * headDim + i] as number);
      }
    });
    this.#slots.merge(slot, other);
  }

  /**
   * Replaces the slots from `first` on by memory slots: one per run of these lengths, the mean of its keys and of its
   * values, at the position of its last slot.
   */
  pool(first: number, runs: readonly number[]): void {
    const { headDim } = this.shape;
    this.#place.own(this.length);
    this.#place.eachHead((data, base) => {
      let start = first;
      for (const [run, length] of runs.entries()) {
        for (let i = 0; i < headDim; i++) {
          let sum = 0;
          for (let slot = start; slot < start + length; slot++) sum += data[base + slot * headDim + i] as number;
          data[base + (first + run) * headDim + i] = sum / length;
        }
        start += length;
      }
    });
    this.#slots.pool(first, runs);
  }

  /** Gives every slot an origin object that no other has, by which it can be followed. @returns each with its slot */
  followSlots(): Map<SlotOrigin, number> {
    return this.#slots.follow();
  }

  /** Marks a slot as something else. */
  setKind(slot: number, kind: SlotKind): void {
    this.#slots.setKind(slot, kind);
  }

  /** Gives a slot another position, turning its keys by the difference. */
  moveTo(slot: number, position: number, rotary: readonly RotaryConfig[]): void {
    const delta = position - (this.positions[slot] as number);
    if (delta === 0) return;
    this.#place.own(this.length);
    const { layers, kvHeads } = this.shape;
    for (let layer = 0; layer < layers; layer++) {
      for (let head = 0; head < kvHeads; head++) {
        const offset = this.#place.offset(head, slot);
        rotateKey(rotary[layer] as RotaryConfig, this.store.keys[layer] as Float32Array, offset, delta);
      }
    }
    this.#slots.setPosition(slot, position);
  }

  /**
   * Gives a row in a store of its own the room that its length asks for. The engine's sums are grouped by where slots
   * lie, so equal contents give logits that are equal to the last bit only in equal room.
   */
  settle(): void {
    this.#place.settle(this.length);
  }

  /** Another row with the same contents, which are copied once one of the two changes. */
  clone(): KvRow {
    const copy = new KvRow(this.shape);
    copy.#slots = this.#slots.slice();
    copy.#place = this.#place.share(this.length);
    return copy;
  }

  /** Another row with the slots [start, end) of this one and a store of its own. */
  slice(start: number, end: number): KvRow {
    const part = new KvRow(this.shape, roomFor(end - start));
    part.store.copyRow(part.index, this.store, this.index, end - start, start);
    part.#slots = this.#slots.slice(start, end);
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
      positions: [...this.positions],
      kinds: [...this.kinds],
    };
  }

  /**
   * Keys and values of a layer, of the slots in use: one array per head, [slots · headDim], in place. They are the row's
   * until it moves or grows, and its clones may read them too: only those of a blank row may be written.
   */
  heads(layer: number): { keys: Float32Array[]; values: Float32Array[] } {
    return this.#place.heads(layer, this.length);
  }

  /** A row with such slots in a store of its own; their keys and values are zero until {@link KvRow.heads} are written. */
  static blank(shape: KvShape, slots: RowSlots): KvRow {
    const row = new KvRow(shape, roomFor(slots.positions.length));
    row.#slots = new SlotList(slots);
    return row;
  }

  /** Moves the row to a free place of a store that several rows share and that has room for it. */
  place(store: KvStore, index: number): void {
    this.#place.move(store, index, this.length);
  }

  /** Moves the row out of a shared store into one of its own. */
  detach(): void {
    this.#place.detach(this.length);
  }
}
