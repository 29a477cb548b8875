/** @file One span squeezed into the keys and values of its `<CR>`, at a cost that does not grow with the history. */
import { joinOrigins } from "../../cache/slot-origin.js";
import { sentinelIds, sentinelPositions } from "../../sentinel/sentinel-tokens.js";
import type { MemorySession } from "../session.js";

/**
 * Reads `<CL>` and `<CR>` of the span in the slots [first, first + count) and puts the row of `<CR>` in their place. The
 * span's rows were made without sight of `<CL>`, and `<CR>` sees nothing but the span and `<CL>`, so it does not matter
 * how long ago the span was read, and the rest of the cache is not even looked at.
 * @param options.keepsText leaves the span's slots where they are, and puts the row behind them
 */
export async function compressSpan(
  session: MemorySession,
  first: number,
  count: number,
  { keepsText = false }: { keepsText?: boolean } = {},
): Promise<void> {
  const { row, runner, textAdapter: adapter } = session;
  const end = first + count;
  const positions = sentinelPositions(row.positions[first] as number, row.positions[end - 1] as number);
  const ids = sentinelIds(runner.config.vocabSize);
  const input = {
    past: row.slice(first, end),
    ids: [ids.open, ids.close],
    positions: [positions.open, positions.close],
    gate: [1, 1],
    visible: (query: number, key: number): boolean => query === 1 || key >= count,
  };
  const result = await runner.forward([input], { logits: "none", adapter });
  session.peakSlots = Math.max(session.peakSlots, row.length + input.ids.length);
  const newest = row.length;
  const origin = joinOrigins(row.origins.slice(first, end));
  row.append(result, 0, 1, [positions.close], "span", [origin]);
  const slots = Array.from({ length: newest }, (_, slot) => slot);
  row.arrange([...slots.slice(0, keepsText ? end : first), newest, ...slots.slice(end)]);
}
