/** @file What a memory holds, in numbers, and what it saves. */
import { slotBytes } from "../cache/kv-store.js";
import type { MemorySession } from "./session.js";

/** What a memory holds and what it saves. */
export interface MemoryStats {
  method: string;
  /** Time steps closed so far. */
  steps: number;
  /** Text tokens taken in so far. */
  tokensSeen: number;
  /** KV positions held per layer. */
  slots: number;
  /** Position that the next token will get. */
  position: number;
  /** Bytes of the held keys and values. */
  bytes: number;
  /** Bytes that a full cache of every token seen would take. */
  fullCacheBytes: number;
  /** fullCacheBytes / bytes; 0 while nothing is held. */
  ratio: number;
}

/** The numbers of a session as it is now. */
export function statsOf({ method, row, runner, steps, tokensSeen, position }: MemorySession): MemoryStats {
  const bytesPerSlot = slotBytes(runner.shape);
  const slots = row.length;
  return {
    method: method.name,
    steps,
    tokensSeen,
    slots,
    position,
    bytes: slots * bytesPerSlot,
    fullCacheBytes: tokensSeen * bytesPerSlot,
    ratio: slots === 0 ? 0 : tokensSeen / slots,
  };
}
