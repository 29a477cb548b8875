/**
 * @file Sentinel tokens: spans of text squeezed, one by one, into the keys and values of one `<CR>` each, in text that is
 * read and in text that the model writes. Ren et al. 2023, "Context Compression for Auto-regressive Transformers with
 * Sentinel Tokens", arXiv:2310.08152.
 */
import { LONGEST_SPAN } from "../../sentinel/sentinel-tokens.js";
import { defineMethod, type MemoryMethod } from "../method.js";
import { recentBehavior } from "../spans/recent-spans.js";
import { freshSpanState, SPAN_POLICIES, spanBehavior, spanStateFits } from "../spans/span-behavior.js";

/** Squeeze spans into one slot each. */
export const sentinel: MemoryMethod = defineMethod({
  name: "sentinel",
  summary: "Squeeze each span of text into the KV of its <CR> token, as soon as it is over; also while answering.",
  paper: "arXiv:2310.08152",
  needsCompTokens: true,
  needsSentinels: true,
  options: {
    policy: {
      default: "fixed",
      choices: [...SPAN_POLICIES, "recent", "spanwise"],
      description:
        "What becomes a span: fixed (all text, in equal spans), every (only some of those spans), sentence, older (what leaves a window), marked (what <CL>…<CR> wraps in the input), caller (what a function passed to createMemory as `spans` chooses), recent and spanwise (all text, in equal spans, whose tokens also stay until they are no longer recent, and leave one by one or at the end of each span; for adapters trained with that --placement).",
    },
    span: {
      default: LONGEST_SPAN,
      min: 2,
      description:
        "Words of a span; most words of a sentence's, a marked or a recent span. Words are separated by white space.",
    },
    ratio: {
      default: 0.5,
      min: 0,
      max: 1,
      integer: false,
      description: "every, recent, spanwise: share of the cache to do without.",
    },
    window: { default: 128, min: 0, description: "older: latest tokens that are not compressed." },
  },
  fits: spanStateFits,
  create: (options, state = freshSpanState()) => ({
    state,
    ...(options.policy === "recent" || options.policy === "spanwise"
      ? recentBehavior(options.policy, options, state)
      : spanBehavior(options.policy, options, state)),
  }),
});
