/** @file Reading text a second time, for methods that must see it again under another mask. */
import type { MemorySession } from "../session.js";

/**
 * Reads tokens as context from slot `start` and `position` on, replacing the rows that were there. Nothing is counted
 * twice, and the open tokens stay those that they were.
 * @throws CONTEXT_OVERFLOW
 */
export async function reread(
  session: MemorySession,
  ids: readonly number[],
  start: number,
  position: number,
): Promise<void> {
  const { tokensSeen, openIds } = session;
  // Feeding adds to the open tokens, which `ids` may be.
  const text = [...ids];
  session.row.truncate(start);
  session.position = position;
  session.openIds = [];
  session.tokensSeen = tokensSeen - text.length;
  await session.feed(text, { purpose: "context", logits: "none" });
  session.tokensSeen = tokensSeen;
  session.openIds = openIds;
}
