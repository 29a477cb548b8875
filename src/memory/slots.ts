/** @file What a memory holds, slot by slot, for people who want to look into it. */
import type { KvRow } from "../cache/kv-row.js";
import type { SlotKind } from "../cache/slot-list.js";
import type { SlotOrigin } from "../cache/slot-origin.js";

/** One slot, which every layer has. */
export interface MemorySlot {
  kind: SlotKind;
  /** Where its key was rotated to. */
  position: number;
  /** The time steps that wrote it and the text that it stands for; undefined in memories saved before this was kept. */
  origin: SlotOrigin | undefined;
}

/** Attention paid to the slots of a memory. */
export interface MemoryAttention {
  /** The slots that the memory held, in the order of `layers`. */
  slots: MemorySlot[];
  /** Per layer [slots]: the share of attention that went to each, mean over heads and tokens. */
  layers: Float32Array[];
  /**
   * Per layer the share that went to the input, the answer and what the memory made of them. With the slots' shares
   * it comes to 1.
   */
  own: number[];
  /** Tokens whose attention was counted. */
  tokens: number;
}

/** The slots of a row. */
export function slotsOf(row: KvRow): MemorySlot[] {
  return row.kinds.map((kind, slot) => ({
    kind,
    position: row.positions[slot] as number,
    origin: row.origins[slot],
  }));
}
