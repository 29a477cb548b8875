/** @file Which section of a snapshot holds which rows, and where a snapshot may be cut. */
import type { KvRow } from "../cache/kv-row.js";
import type { KvShape } from "../cache/kv-store.js";
import { sectionTable } from "../codec/container.js";

/**
 * Slots of a run. A run that is complete is written as the same bytes for as long as its rows stay what they are, so that
 * who keeps many snapshots of a growing session need keep it only once.
 */
export const RUN_SLOTS = 128;

/** One section. */
export interface SectionPlan {
  name: string;
  /** Vectors that it holds. */
  vectors: number;
  /** Where they are in a row, in their order: arrays of whole vectors. */
  parts: (row: KvRow) => Float32Array[];
}

/**
 * The sections of a row of so many slots: a run each, the incomplete one first. A run has the keys of all heads, then
 * the values, layer by layer.
 * @param runSlots slots of a complete run; undefined for the earlier layout, keys and values of each layer
 */
export function planSections(shape: KvShape, slots: number, runSlots: number | undefined): SectionPlan[] {
  const layers = Array.from({ length: shape.layers }, (_, layer) => layer);
  if (runSlots === undefined) {
    const section = (part: "keys" | "values", layer: number): SectionPlan => ({
      name: `${part}.${layer}`,
      vectors: shape.kvHeads * slots,
      parts: (row) => row.heads(layer)[part],
    });
    return layers.flatMap((layer) => [section("keys", layer), section("values", layer)]);
  }
  const complete = Math.floor(slots / runSlots);
  const run = (index: number): SectionPlan => {
    const [start, end] = [index * runSlots, Math.min(slots, (index + 1) * runSlots)];
    const within = (rows: Float32Array): Float32Array => rows.subarray(start * shape.headDim, end * shape.headDim);
    return {
      name: `rows.${index}`,
      vectors: shape.layers * 2 * shape.kvHeads * (end - start),
      parts: (row) =>
        layers.flatMap((layer) => {
          const { keys, values } = row.heads(layer);
          return [...keys, ...values].map(within);
        }),
    };
  };
  const runs = Array.from({ length: complete }, (_, index) => run(index));
  return slots > complete * runSlots ? [run(complete), ...runs] : runs;
}

/**
 * A snapshot in pieces, which are together, one after another, the snapshot: what is new in each one, and its complete
 * runs of rows. A run is the same piece in another snapshot of the session if nothing happened to its rows.
 * @param bytes as a memory wrote them: nothing is checked
 */
export function splitSnapshot(bytes: Uint8Array): { head: Uint8Array; runs: Uint8Array[] } {
  const { header, sections } = sectionTable(bytes);
  const { slots, runSlots } = header as { slots?: number; runSlots?: number };
  if (slots === undefined || runSlots === undefined) return { head: bytes, runs: [] };
  const shared = sections.slice(slots % runSlots === 0 ? 0 : 1);
  return {
    head: bytes.subarray(0, shared[0]?.start ?? bytes.length),
    runs: shared.map(({ start, end }) => bytes.subarray(start, end)),
  };
}
