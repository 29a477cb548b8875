/**
 * @file Sentinel tokens: spans of text squeezed, one by one, into the keys and values of one `<CR>` each, in text that is
 * read and in text that the model writes. Ren et al. 2023, "Context Compression for Auto-regressive Transformers with
 * Sentinel Tokens", arXiv:2310.08152.
 */
import { PrecisError } from "../../errors.js";
import { LONGEST_SPAN, type Span } from "../../sentinel/sentinel-tokens.js";
import { defineMethod, type MemoryMethod } from "../method.js";
import type { MemorySession } from "../session.js";
import { describeTokens, MOST_UNDECIDED } from "../spans/caller-spans.js";
import { compressSpan } from "../spans/compress-span.js";
import { everyKthSpan, fixedSpans, olderThanWindow, sentences } from "../spans/policies.js";
import type { SpanOptions, SpanPolicy } from "../spans/span-policy.js";

/** How spans are found. */
const POLICIES = ["fixed", "every", "sentence", "older", "marked", "caller"] as const;

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

function checkMarks(session: MemorySession, ids: readonly number[], marks: readonly Span[], span: number): void {
  for (const { start, end } of marks) {
    const words = session.words.count(ids.slice(start, end));
    if (words <= span) continue;
    throw new PrecisError(
      "INPUT_INVALID",
      `A marked span has ${words} words; at most ${span} are compressed at once.`,
      {
        value: words,
        nextStep:
          "Mark shorter spans, or raise the option span; adapters know only lengths that they were trained with.",
      },
    );
  }
}

/** Squeeze spans into one slot each. */
export const sentinel: MemoryMethod = defineMethod({
  name: "sentinel",
  summary: "Squeeze each span of text into the KV of its <CR> token, as soon as it is over; also while answering.",
  paper: "arXiv:2310.08152",
  needsCompTokens: true,
  options: {
    policy: {
      default: "fixed",
      choices: POLICIES,
      description:
        "What becomes a span: fixed (all text, in equal spans), every (only some of those spans), sentence, older (what leaves a window), marked (what <CL>…<CR> wraps in the input), caller (what a function passed to createMemory as `spans` chooses).",
    },
    span: {
      default: LONGEST_SPAN,
      min: 2,
      description: "Words of a span; most words of a sentence's or a marked span. Words are separated by white space.",
    },
    ratio: {
      default: 0.5,
      min: 0,
      max: 1,
      integer: false,
      description: "every: share of the cache to do without.",
    },
    window: { default: 128, min: 0, description: "older: latest tokens that are not compressed." },
  },
  fits: (state, slots) => (state["pending"] as number[]).length <= slots,
  create: (options, state = { pending: [], decided: 0 }) => {
    // What is marked comes with the input, and a caller is asked; there is nothing to decide here.
    const policy: SpanPolicy = POLICY_OF[options.policy]?.(options) ?? (() => undefined);
    const marked = options.policy === "marked";
    const pending = state["pending"] as number[];
    const decided = (): number => Number(state["decided"]);
    return {
      state,
      readsMarks: marked,
      checkMarks: (session, ids, marks) => checkMarks(session, ids, marks, options.span),
      async beforeRun(session, waiting, marks) {
        if (marked) return followMarks(session, waiting, marks);
        if (options.policy === "caller") return followCaller(session, pending, waiting);
        const { words } = session;
        const next = waiting[0] as number;
        for (;;) {
          const cut = policy({ words, pending, next, decided: decided() });
          if (cut === undefined) break;
          const first = session.row.length - pending.length;
          if (cut.compress && cut.tokens >= SHORTEST_SPAN) await compressSpan(session, first, cut.tokens);
          const isSpan = !words.isSpecial(pending[0] as number);
          pending.splice(0, cut.tokens);
          if (isSpan) state["decided"] = decided() + 1;
        }
        const ahead = [...pending];
        for (let tokens = 1; tokens < waiting.length; tokens++) {
          ahead.push(waiting[tokens - 1] as number);
          const context = { words, pending: ahead, next: waiting[tokens] as number, decided: decided() };
          if (policy(context) !== undefined) return tokens;
        }
        return waiting.length;
      },
      async afterRun(_session, ids) {
        if (!marked) pending.push(...ids);
      },
    };
  },
});
