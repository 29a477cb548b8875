/**
 * @file Spans over all of a text that are compressed while their tokens stay: those leave when they are no longer recent,
 * one by one or at the end of each span. Control tokens are in no span and leave as well.
 */
import { recentSpanWords, recentStart, type Leaving } from "../../sentinel/recent-rules.js";
import type { MemoryBehavior } from "../method.js";
import type { MemorySession } from "../session.js";
import { compressSpan } from "./compress-span.js";
import { fixedSpans } from "./policies.js";
import { followPolicy } from "./span-behavior.js";
import type { SpanOptions } from "./span-policy.js";

/** Places of the row's slots in the text; Infinity for `<CR>`, which is seen whatever its age. */
function placesOf({ row, tokensSeen }: MemorySession): number[] {
  let place = tokensSeen - row.kinds.filter((kind) => kind === "text").length;
  return row.kinds.map((kind) => (kind === "text" ? place++ : Infinity));
}

/**
 * The behaviour. The text of a row is always the latest: all of the open span and what {@link recentStart} lets the next
 * token see.
 * @param state has the fields of `freshSpanState`
 */
export function recentBehavior(
  leaving: Leaving,
  { ratio, span, window }: SpanOptions,
  state: Record<string, unknown>,
): Pick<MemoryBehavior, "visible" | "beforeRun" | "afterRun"> {
  const pending = state["pending"] as number[];
  const decide = fixedSpans({ ratio, window, span: recentSpanWords(leaving, ratio, span) });
  /** The first token of the text that token `index` sees. */
  const startFor = ({ row, tokensSeen }: MemorySession): ((index: number) => number) => {
    const closed = row.kinds.filter((kind) => kind === "span").length;
    const open = tokensSeen - pending.length;
    return (index) => recentStart(leaving, index, closed, open, ratio);
  };
  const release = (session: MemorySession): void => {
    const start = startFor(session)(session.tokensSeen);
    const kept = placesOf(session).flatMap((place, slot) => (place >= start ? [slot] : []));
    if (kept.length < session.row.length) session.row.arrange(kept);
  };
  return {
    visible(session, _purpose, positions) {
      const { row, tokensSeen, position } = session;
      const held = placesOf(session);
      const start = startFor(session);
      const placeOf = (token: number): number => tokensSeen + (positions[token] as number) - position;
      const starts = positions.map((_, token) => start(placeOf(token)));
      return (query, key) => (held[key] ?? placeOf(key - row.length)) >= (starts[query] as number);
    },
    async beforeRun(session, waiting) {
      const ready = await followPolicy(decide, session, state, waiting, (first, count) =>
        compressSpan(session, first, count, { keepsText: true }),
      );
      // Each `<CR>` takes the place of a token.
      release(session);
      return ready;
    },
    async afterRun(session, ids) {
      pending.push(...ids);
      release(session);
    },
  };
}
