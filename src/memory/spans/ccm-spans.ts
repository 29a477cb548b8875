/**
 * @file CCM whose steps contain sentinel spans: while a step is open its spans are compressed one by one, and what is
 * left of it (text outside spans, and the row of each `<CR>`) is what the COMP tokens then read. Two adapters, each as it
 * was trained: the sentinel one acts on text and on `<CL>` and `<CR>`, the CCM one on COMP tokens. They never meet in one
 * run, so nothing has to be combined; nor were they trained together.
 */
import { PrecisError } from "../../errors.js";
import { LONGEST_SPAN } from "../../sentinel/sentinel-tokens.js";
import type { MemoryBehavior, OptionSpec } from "../method.js";
import { freshSpanState, SPAN_POLICIES, spanBehavior } from "./span-behavior.js";

/** Options of a CCM method that can compress spans. */
export const CCM_SPAN_OPTIONS: {
  readonly spans: OptionSpec & { default: string };
  readonly spanWords: OptionSpec & { default: number };
  readonly spanRatio: OptionSpec & { default: number };
  readonly spanWindow: OptionSpec & { default: number };
} = {
  spans: {
    default: "none",
    choices: ["none", ...SPAN_POLICIES],
    description:
      "Spans inside a step that a second, sentinel adapter squeezes into one slot each before the step is compressed; the policies are those of the method sentinel, all but recent.",
  },
  spanWords: { default: LONGEST_SPAN, min: 2, description: "spans: words of a span, or most words of one." },
  spanRatio: {
    default: 0.5,
    min: 0,
    max: 1,
    integer: false,
    description: "spans=every: share of the cache to do without.",
  },
  spanWindow: { default: 128, min: 0, description: "spans=older: latest tokens that are not compressed." },
};

/** Values of {@link CCM_SPAN_OPTIONS}. */
export interface CcmSpanOptions {
  spans: string;
  spanWords: number;
  spanRatio: number;
  spanWindow: number;
}

/** What a CCM method's state has in addition. */
export function ccmSpanState({ spans }: CcmSpanOptions): Record<string, unknown> {
  return spans === "none" ? {} : freshSpanState();
}

/**
 * A CCM method's behaviour, with spans if its options ask for them.
 * @throws OPTION_INVALID for marked spans in steps that are read a second time, when the marks are gone
 */
export function withSpans(
  behavior: MemoryBehavior,
  { spans, spanWords, spanRatio, spanWindow, recursive }: CcmSpanOptions & { recursive: boolean },
): MemoryBehavior {
  if (spans === "none") return behavior;
  if (spans === "marked" && !recursive) {
    throw new PrecisError("OPTION_INVALID", "Without recursion, an answered input is read twice, but marked once.", {
      nextStep: "Use recursive=true, or another policy for spans.",
    });
  }
  const { state } = behavior;
  const pending = state["pending"] as number[];
  return {
    ...behavior,
    ...spanBehavior(spans, { span: spanWords, ratio: spanRatio, window: spanWindow }, state),
    compressesSpans: true,
    async closeStep(session) {
      // No span reaches beyond its step: the rows are about to go.
      pending.length = 0;
      await behavior.closeStep?.(session);
      pending.length = 0;
    },
  };
}
