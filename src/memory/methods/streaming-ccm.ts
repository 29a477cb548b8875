/**
 * @file Streaming CCM: a window whose oldest tokens are compressed into a bounded memory, with positions renumbered by
 * slot, as published, or as they are in the text. Kim et al. 2024 (ICLR), arXiv:2312.03414, section 4.3. Merging
 * averages keys before rotation, all at the same place.
 */
import { joinOrigins } from "../../cache/slot-origin.js";
import { defineMethod, type MemoryMethod } from "../method.js";
import type { MemorySession } from "../session.js";
import { moveSlot, moveSlotsBack, renumberSlots } from "../slot-positions.js";
import { runCompTokens } from "./comp-tokens.js";
import {
  planStep,
  slotsAfter,
  STREAM_RELEASES,
  type StreamRelease,
  type StreamRow,
  type StreamStep,
} from "./stream-compression.js";

/** The row as the rules see it. */
function rowOf({ row }: MemorySession, state: Readonly<Record<string, unknown>>): StreamRow {
  const memory = row.kinds.filter((kind) => kind === "memory").length;
  return { length: row.length, memory, stale: Number(state["stale"] ?? 0) };
}

/** Averages the new COMP slots into the memory, at the same positions: M ← (1 - 1/count) M + 1/count h. */
function mergeCompressed(session: MemorySession, step: StreamStep, count: number, bySlot: boolean): void {
  const { row, compTokens } = session;
  const newest = row.length - compTokens;
  for (let k = 0; k < compTokens; k++) {
    const slot = step.sink + k;
    // Numbered as in the text, a memory of everything so far stands where its latest part does.
    if (bySlot) moveSlot(session, newest + k, slot);
    else moveSlot(session, slot, row.positions[newest + k] as number);
    row.blend(slot, newest + k, 1 / count);
  }
  row.arrange(slotsAfter({ ...step, dropped: 0 }, newest, 0));
}

/** Runs the COMP tokens of a step, and makes them memory. */
async function compressOldest(
  session: MemorySession,
  step: StreamStep,
  update: string,
  bySlot: boolean,
  state: Record<string, unknown>,
): Promise<void> {
  const { row, compTokens } = session;
  const past = row.length;
  const count = Number(state["compressions"]) + 1;
  // Right behind the text that they compress, where what comes next also begins.
  const first = (row.positions[step.source - 1] as number) + 1;
  const positions = Array.from({ length: compTokens }, (_, k) => first + k);
  const origin = joinOrigins(row.origins.slice(step.sink + step.memory, step.source));
  await runCompTokens(session, positions, (_query, key) => key < step.source || key >= past, origin);
  if (update === "merge" && count > 1) mergeCompressed(session, step, count, bySlot);
  else row.arrange(slotsAfter(step, past, compTokens));
  state["compressions"] = count;
}

/**
 * Keeps positions of the text within what the model was made for: only their differences matter, and what is held is
 * near. Sinks stay, so that they are never farther than that from anything either.
 * @param coming most positions that are needed before this is asked again
 */
function keepNear(session: MemorySession, sink: number, coming: number): void {
  const { row, position, runner } = session;
  if (position + coming <= runner.config.maxPositions || row.length <= sink) return;
  moveSlotsBack(session, sink, Math.min(...row.positions.slice(sink)) - sink);
}

/** Compress what leaves the window. */
export const streamingCcm: MemoryMethod = defineMethod({
  name: "streaming-ccm",
  summary: "A window whose oldest tokens are compressed into a bounded memory; input may be endless.",
  paper: "arXiv:2312.03414",
  needsCompTokens: true,
  options: {
    window: { default: 160, min: 2, description: "Most KV slots held: sinks, memory and text." },
    compress: { default: 64, min: 1, description: "Tokens compressed at once when the window is full." },
    memory: { default: 8, min: 1, description: "Most memory slots; the oldest are dropped (concat only)." },
    sink: { default: 1, min: 0, description: "First tokens that are never compressed." },
    update: {
      default: "concat",
      choices: ["concat", "merge"],
      description: "Append compressed slots, or average them into a fixed number.",
    },
    release: {
      default: "once",
      choices: STREAM_RELEASES,
      description:
        "Compressed tokens leave at once, as published, or gradually, one for each that comes, so that the window stays full.",
    },
    positions: {
      default: "slot",
      choices: ["slot", "text"],
      description:
        "Number what is held by its slots, as published, or leave it at its distance in the text, as `precis train --method streaming-ccm` trains it.",
    },
  },
  // The token that makes the window too full, and the COMP tokens that then compress.
  beyondWindow: (compTokens) => 1 + compTokens,
  fits: ({ stale = 0 }, slots) => Number(stale) <= slots,
  create: ({ release, ...options }, state = { compressions: 0, stale: 0 }) => ({
    state,
    unlimited: true,
    ...(release === "gradual" ? { span: options.window + 1 } : {}),
    runLength(session) {
      const { length, stale } = rowOf(session, state);
      // Numbers by slot change whenever something leaves.
      const leaving = options.positions === "slot" ? 0 : stale;
      return Math.max(1, options.window + 1 - length + leaving);
    },
    // Each token sees as much as if the ones before it had come alone, and stale text had left for them.
    visible(session, _purpose, positions) {
      const { length, memory, stale } = rowOf(session, state);
      if (stale === 0) return undefined;
      const text = Math.min(options.sink, length) + memory;
      const { position } = session;
      return (query, key) => {
        const gone = length + (positions[query] as number) - position - options.window;
        return key < text || key >= text + Math.min(stale, gone);
      };
    },
    async afterRun(session) {
      const { row } = session;
      const bySlot = options.positions === "slot";
      // Merged slots take the place of those that they are merged with.
      const memory = options.update === "merge" ? session.compTokens : options.memory;
      const sizes = { ...options, memory, release: release as StreamRelease };
      for (;;) {
        const before = rowOf(session, state);
        const step = planStep(sizes, before, session.compTokens);
        if (step === undefined) return;
        state["stale"] = step.stale;
        for (let slot = 0; slot < step.sink; slot++) row.setKind(slot, "sink");
        if (step.source === 0) row.arrange(slotsAfter(step, before.length, 0));
        else await compressOldest(session, step, options.update, bySlot, state);
        if (bySlot) renumberSlots(session);
        else keepNear(session, step.sink, options.window + 1 - row.length + step.stale + session.compTokens);
        // Published rules compress once, however much too long the row still is.
        if (step.source > 0) return;
      }
    },
  }),
});
