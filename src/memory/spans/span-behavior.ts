/** @file What a memory does to compress spans while tokens come in, whatever else it does: sentinel, and CCM with spans. */
import { PrecisError } from "../../errors.js";
import type { Span } from "../../sentinel/sentinel-tokens.js";
import type { MemoryBehavior } from "../method.js";
import type { MemorySession } from "../session.js";
import { describeTokens, MOST_UNDECIDED } from "./caller-spans.js";
import { compressSpan } from "./compress-span.js";
import { everyKthSpan, fixedSpans, olderThanWindow, sentences } from "./policies.js";
import type { SpanOptions, SpanPolicy } from "./span-policy.js";

/** How spans are found. */
export const SPAN_POLICIES = ["fixed", "every", "sentence", "older", "marked", "caller"] as const;

const POLICY_OF: Readonly<Record<string, (options: SpanOptions) => SpanPolicy>> = {
  fixed: fixedSpans,
  every: everyKthSpan,
  sentence: sentences,
  older: olderThanWindow,
};

/** Shorter spans gain nothing and are kept. */
const SHORTEST_SPAN = 2;

/** Compresses, before `waiting` is read, the marked spans that are over; @returns how many tokens the next run may take. */
async function followMarks(
  session: MemorySession,
  waiting: readonly number[],
  marks: readonly Span[],
): Promise<number> {
  for (const { start, end } of marks) {
    if (end < 0) continue;
    if (end > 0) return end;
    if (end - start >= SHORTEST_SPAN) await compressSpan(session, session.row.length - (end - start), end - start);
  }
  return waiting.length;
}

/** Compresses what a caller's function chose and what is over; @returns how many tokens the next run may take. */
async function followCaller(session: MemorySession, pending: number[], waiting: readonly number[]): Promise<number> {
  if (session.spanAsker === undefined) {
    throw new PrecisError("OPTION_INVALID", "The policy caller needs a function that chooses spans.", {
      nextStep: "Pass it as `spans` to createMemory or restoreMemory, or use another policy.",
    });
  }
  pending.splice(0, Math.max(0, pending.length - MOST_UNDECIDED));
  const read = pending.length;
  const tokens = describeTokens(session.words, [...pending, ...waiting]);
  let decided = 0;
  for (const { start, end } of await session.spanAsker.ask({ tokens, read })) {
    if (end > read) return end - read;
    const first = session.row.length - pending.length + start - decided;
    if (end - start >= SHORTEST_SPAN) await compressSpan(session, first, end - start);
    pending.splice(0, end - decided);
    decided = end;
  }
  return waiting.length;
}

/**
 * Compresses what a policy cuts off.
 * @param compress gets the slots [first, first + count) of a span
 * @returns how many tokens the next run may take before the policy would cut again
 */
export async function followPolicy(
  policy: SpanPolicy,
  session: MemorySession,
  state: Record<string, unknown>,
  waiting: readonly number[],
  compress: (first: number, count: number) => Promise<void>,
): Promise<number> {
  const { words } = session;
  const pending = state["pending"] as number[];
  const decided = (): number => Number(state["decided"]);
  for (;;) {
    const cut = policy({ words, pending, next: waiting[0] as number, decided: decided() });
    if (cut === undefined) break;
    const first = session.row.length - pending.length;
    if (cut.compress) await compress(first, cut.tokens);
    if (!words.isSpecial(pending[0] as number)) state["decided"] = decided() + 1;
    pending.splice(0, cut.tokens);
  }
  const ahead = [...pending];
  for (let tokens = 1; tokens < waiting.length; tokens++) {
    ahead.push(waiting[tokens - 1] as number);
    const cut = policy({ words, pending: ahead, next: waiting[tokens] as number, decided: decided() });
    if (cut !== undefined) return tokens;
  }
  return waiting.length;
}

function checkMarks(session: MemorySession, ids: readonly number[], marks: readonly Span[], span: number): void {
  for (const { start, end } of marks) {
    const words = session.words.count(ids.slice(start, end));
    if (words <= span) continue;
    throw new PrecisError(
      "INPUT_INVALID",
      `A marked span has ${words} words; at most ${span} are compressed at once.`,
      {
        value: words,
        nextStep: "Mark shorter spans, or allow longer ones; adapters know only lengths that they were trained with.",
      },
    );
  }
}

/** The state of a memory that has compressed no span yet. */
export function freshSpanState(): { pending: number[]; decided: number } {
  return { pending: [], decided: 0 };
}

/** Whether a stored state can belong to a row of so many slots. */
export function spanStateFits(state: Readonly<Record<string, unknown>>, slots: number): boolean {
  return !Array.isArray(state["pending"]) || state["pending"].length <= slots;
}

/**
 * The behaviour.
 * @param policy one of {@link SPAN_POLICIES}
 * @param state has the fields of {@link freshSpanState}, among others
 */
export function spanBehavior(
  policy: string,
  options: SpanOptions,
  state: Record<string, unknown>,
): Pick<MemoryBehavior, "readsMarks" | "checkMarks" | "beforeRun" | "afterRun"> {
  if (policy === "marked") {
    return {
      readsMarks: true,
      checkMarks: (session, ids, marks) => checkMarks(session, ids, marks, options.span),
      beforeRun: followMarks,
    };
  }
  const pending = state["pending"] as number[];
  const decide = POLICY_OF[policy]?.(options);
  return {
    async beforeRun(session, waiting) {
      if (decide === undefined) return followCaller(session, pending, waiting);
      return followPolicy(decide, session, state, waiting, async (first, count) => {
        if (count >= SHORTEST_SPAN) await compressSpan(session, first, count);
      });
    },
    async afterRun(_session, ids) {
      pending.push(...ids);
    },
  };
}
