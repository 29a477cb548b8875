/** @file One run of an adapter's COMP tokens, whose keys and values are what a step is squeezed into. */
import type { SlotOrigin } from "../../cache/slot-origin.js";
import type { Visibility } from "../method.js";
import type { MemorySession } from "../session.js";

/**
 * Runs the adapter's COMP tokens at `positions` and appends their rows as memory slots. No text position is consumed.
 * @param visible restricts what they see; default: everything before them
 * @param origin what they stand for; default: the open step
 */
export async function runCompTokens(
  session: MemorySession,
  positions: readonly number[],
  visible?: Visibility,
  origin: SlotOrigin | undefined = session.openOrigin,
): Promise<void> {
  const { runner, row, adapter } = session;
  const ids = positions.map((_, index) => runner.config.vocabSize + index);
  const input = { past: row, ids, positions, gate: ids.map(() => 1), visible };
  const result = await runner.forward([input], { logits: "none", adapter });
  session.peakSlots = Math.max(session.peakSlots, row.length + ids.length);
  const origins = positions.map(() => origin);
  row.append(result, 0, 0, positions, "memory", origins);
}
