/** @file What CCM-concat and CCM-merge share: a step is squeezed into the keys and values of its COMP tokens. */
import type { KvRow } from "../../cache/kv-row.js";
import type { FeedPurpose, OptionSpec, Visibility } from "../method.js";
import type { MemorySession } from "../session.js";
import { runCompTokens } from "./comp-tokens.js";
import { reread } from "./reread.js";

/** Options of both CCM methods. */
export const CCM_OPTIONS: {
  readonly recursive: OptionSpec & { default: boolean };
  readonly sink: OptionSpec & { default: number };
} = {
  recursive: {
    default: true,
    description:
      "Steps see the memory of earlier steps while they are compressed (the paper's equations); false compresses each step alone.",
  },
  sink: { default: 0, min: 0, description: "First tokens of the first step to keep uncompressed, as attention sinks." },
};

/** Values of {@link CCM_OPTIONS}. */
export interface CcmOptions {
  recursive: boolean;
  sink: number;
}

/** Hides memory slots, so that a step is read as if it stood alone. Sinks stay visible. */
export function hideMemory(session: MemorySession): Visibility {
  const { row } = session;
  const past = row.length;
  return (_query, key) => key >= past || row.kinds[key] !== "memory";
}

/** What text tokens see: everything, but without recursion context does not see memory. */
export function ccmVisibility(
  options: CcmOptions,
  session: MemorySession,
  purpose: FeedPurpose,
): Visibility | undefined {
  return options.recursive || purpose === "input" ? undefined : hideMemory(session);
}

/** Makes the open step read as context is, and its first tokens sinks where it is the first step. */
export async function settleOpenStep(session: MemorySession, options: CcmOptions): Promise<void> {
  const { row } = session;
  // Input was read with the memory in sight; without recursion, context must not have been.
  if (!options.recursive && session.openPurpose === "input") {
    await reread(session, session.openIds, session.openStart, session.position - session.openIds.length);
  }
  if (session.steps > 0) return;
  for (let slot = 0; slot < Math.min(options.sink, row.length); slot++) row.setKind(slot, "sink");
}

/** Drops the oldest memory slots of a row that holds more than `limit`; 0 keeps all. The memory comes last. */
export function dropOldestMemory(row: KvRow, limit: number): void {
  const first = row.kinds.indexOf("memory");
  const excess = limit === 0 || first < 0 ? 0 : Math.max(0, row.length - first - limit);
  row.arrange(row.kinds.flatMap((_, slot) => (slot >= first && slot < first + excess ? [] : [slot])));
}

/**
 * Compresses the open step: COMP_k attends to what the step saw, the step and COMP tokens up to itself, at position
 * (last text position) + 1 + k. Afterwards the row is [sinks, memory, the new n COMP slots].
 * @returns the first slot of the new ones
 */
export async function compressOpenStep(session: MemorySession, options: CcmOptions): Promise<number> {
  const { row } = session;
  await settleOpenStep(session, options);
  const positions = Array.from({ length: session.compTokens }, (_, k) => session.position + k);
  await runCompTokens(session, positions, options.recursive ? undefined : hideMemory(session));
  row.arrange(row.kinds.flatMap((kind, slot) => (kind === "text" || kind === "span" ? [] : [slot])));
  return row.length - session.compTokens;
}
