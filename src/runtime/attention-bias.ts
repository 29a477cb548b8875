/** @file The additive attention bias of a run: causality, padding, windows and whatever a method hides. */
import type { SlotKind } from "../cache/slot-list.js";
import { MASKED_BIAS } from "../train/attention-mask.js";

/** One sequence of a batch, as the bias sees it. */
export interface BiasRow {
  /** Positions and kinds of the cached slots. */
  pastPositions: readonly number[];
  pastKinds: readonly SlotKind[];
  /** Positions of the new tokens. */
  positions: readonly number[];
  /** Further restriction: may new token `query` see `key` (a slot, or past length + a new token)? */
  visible?: (query: number, key: number) => boolean;
}

/**
 * The bias [batch, 1, seq, capacity + seq], 0 where attention is allowed. Cached slots come first; those beyond a row's
 * length are unused and hidden. Padding queries see only themselves.
 * @param window positions a query sees, itself included; memory and sink slots are seen from anywhere
 */
export function attentionBias(rows: readonly BiasRow[], seq: number, capacity: number, window?: number): Float32Array {
  const total = capacity + seq;
  const bias = new Float32Array(rows.length * seq * total).fill(MASKED_BIAS);
  rows.forEach((row, batchIndex) => {
    const past = row.pastPositions.length;
    for (let query = 0; query < seq; query++) {
      const base = (batchIndex * seq + query) * total;
      const position = row.positions[query];
      if (position === undefined) {
        bias[base + capacity + query] = 0;
        continue;
      }
      const near = (key: number): boolean => window === undefined || position - key < window;
      for (let slot = 0; slot < past; slot++) {
        const inWindow = row.pastKinds[slot] !== "text" || near(row.pastPositions[slot] as number);
        if (inWindow && (row.visible?.(query, slot) ?? true)) bias[base + slot] = 0;
      }
      for (let key = 0; key <= query; key++) {
        if (near(row.positions[key] as number) && (row.visible?.(query, past + key) ?? true))
          bias[base + capacity + key] = 0;
      }
    }
  });
  return bias;
}
