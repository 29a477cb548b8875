/** @file What the slots of a row are, one after another: position, kind and origin of each. */
import { joinOrigins, type SlotOrigin } from "./slot-origin.js";

/**
 * What a slot holds: a text token, an attention sink, or a compressed summary (of a time step, or of a span within one);
 * no window may hide the last three.
 */
export type SlotKind = "text" | "sink" | "memory" | "span";

/** What a row's slots are. */
export interface RowSlots {
  positions: readonly number[];
  kinds: readonly SlotKind[];
  /** Where each slot comes from, as far as it is known. */
  origins?: readonly (SlotOrigin | undefined)[] | undefined;
}

/** Position, kind and origin of every slot, kept in step with one another whatever is done to the slots. */
export class SlotList {
  #positions: number[];
  #kinds: SlotKind[];
  #origins: (SlotOrigin | undefined)[];

  constructor({ positions, kinds, origins }: RowSlots = { positions: [], kinds: [] }) {
    this.#positions = [...positions];
    this.#kinds = [...kinds];
    this.#origins = positions.map((_, slot) => origins?.[slot]);
  }

  /** Number of slots. */
  get length(): number {
    return this.#positions.length;
  }

  /** Where the key of each slot was rotated to. */
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

  /** Adds a slot of this kind per position. */
  append(positions: readonly number[], kind: SlotKind, origins: readonly (SlotOrigin | undefined)[]): void {
    for (const [index, position] of positions.entries()) {
      this.#positions.push(position);
      this.#kinds.push(kind);
      this.#origins.push(origins[index]);
    }
  }

  /** Keeps exactly these of the slots, in this order. */
  arrange(slots: readonly number[]): void {
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

  /** Makes a slot stand for another one too, at whose position it is from now on. */
  merge(slot: number, other: number): void {
    this.#positions[slot] = this.#positions[other] as number;
    this.#origins[slot] = joinOrigins([this.#origins[slot], this.#origins[other]]);
  }

  /** Replaces the slots from `first` on by memory slots: one per run of these lengths, at the position of its last slot. */
  pool(first: number, runs: readonly number[]): void {
    let start = first;
    const pooled = runs.map((length) => {
      const from = start;
      start += length;
      return { position: this.#positions[start - 1] as number, origin: joinOrigins(this.#origins.slice(from, start)) };
    });
    this.#positions.splice(first, Infinity, ...pooled.map(({ position }) => position));
    this.#kinds.splice(first, Infinity, ...pooled.map((): SlotKind => "memory"));
    this.#origins.splice(first, Infinity, ...pooled.map(({ origin }) => origin));
  }

  /** Gives every slot an origin object that no other has, by which it can be followed. @returns each with its slot */
  follow(): Map<SlotOrigin, number> {
    const nowhere = { firstStep: 0, lastStep: 0, firstToken: 0, endToken: 0 };
    const followed = this.#origins.map((origin): SlotOrigin => ({ ...(origin ?? nowhere) }));
    this.#origins = followed;
    return new Map(followed.map((origin, slot) => [origin, slot]));
  }

  /** Marks a slot as something else. */
  setKind(slot: number, kind: SlotKind): void {
    this.#kinds[slot] = kind;
  }

  /** Notes that a slot has another position. */
  setPosition(slot: number, position: number): void {
    this.#positions[slot] = position;
  }

  /** Another list with the slots [start, end) of this one; without bounds, with all of them. */
  slice(start?: number, end?: number): SlotList {
    const part = new SlotList();
    part.#positions = this.#positions.slice(start, end);
    part.#kinds = this.#kinds.slice(start, end);
    part.#origins = this.#origins.slice(start, end);
    return part;
  }
}
