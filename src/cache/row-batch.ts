/** @file Rows side by side in one store, which the engine reads in place, while some leave and others join. */
import type { KvRow } from "./kv-row.js";
import { KvStore, roomFor } from "./kv-store.js";

/** A store is made with this share of further places, so that rows can join without all of the others being copied. */
const SPARE_PLACES = 0.25;

/** Room beyond what the longest row needs costs attention over nothing, so more than this factor of it is given up. */
const MOST_ROOM = 1.25;

/** Keeps rows together from step to step. A change in who is there copies those that come or move, not all of them. */
export class RowBatch {
  #store: KvStore | undefined;
  #rows: readonly KvRow[] = [];

  /**
   * Makes these rows, and no others, lie in the places from 0 on of one store; a lone row gets a store of its own.
   * @returns the rows by place
   */
  hold(rows: readonly KvRow[]): readonly KvRow[] {
    const wanted = new Set(rows);
    for (const row of this.#rows) if (!wanted.has(row) && row.store === this.#store) row.detach();
    if (rows.length < 2) {
      for (const row of rows) row.detach();
      this.#store = undefined;
      this.#rows = rows;
      return rows;
    }
    const store = this.#storeFor(rows);
    const staying = new Set(rows.filter((row) => row.store === store && row.index < rows.length));
    const places: (KvRow | undefined)[] = rows.map(() => undefined);
    for (const row of staying) places[row.index] = row;
    const moving = rows.filter((row) => !staying.has(row));
    this.#rows = places.map((row, place) => {
      if (row !== undefined) return row;
      const next = moving.shift() as KvRow;
      next.place(store, place);
      return next;
    });
    this.#store = store;
    return this.#rows;
  }

  /** The present store if it suits the rows, or another one. */
  #storeFor(rows: readonly KvRow[]): KvStore {
    const longest = Math.max(...rows.map((row) => row.length));
    const room = roomFor(longest + 1);
    const present = this.#store;
    const suits =
      present !== undefined &&
      present.batch >= rows.length &&
      present.batch <= 2 * rows.length &&
      present.capacity >= longest &&
      present.capacity <= MOST_ROOM * room;
    if (suits) return present;
    const places = rows.length + Math.ceil(SPARE_PLACES * rows.length);
    return new KvStore((rows[0] as KvRow).shape, places, room);
  }
}
