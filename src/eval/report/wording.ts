/** @file How reports name evaluations and write measures. */
import type { Estimate } from "../bootstrap.js";
import type { MetricName } from "../metrics.js";
import type { MethodResult } from "../result.js";
import type { EvaluationName } from "../tasks/task.js";

/** What people read about each evaluation. */
export const ABOUT: Readonly<Record<EvaluationName, { title: string; text: string; step: string }>> = {
  conversation: {
    title: "Conversation",
    text: "Perplexity of the next turn of held-out dialogues, given the memory of the turns so far and the latest turn.",
    step: "turns in memory",
  },
  "multi-task": {
    title: "Multi-task in-context learning",
    text: "Accuracy on tasks never trained on, given the memory of demonstrations; the mean over tasks.",
    step: "demonstrations in memory",
  },
  personalization: {
    title: "Personalisation",
    text: "Accuracy on questions about users never trained on, given the memory of their profile; the mean over sources.",
    step: "profile entries in memory",
  },
  streaming: {
    title: "Streaming",
    text: "Perplexity of books never trained on, read under a memory that does not grow.",
    step: "tokens read",
  },
  recall: {
    title: "Recall",
    text: "Accuracy on one of many random facts, one of which came with each time step; four options, so chance is 0.25.",
    step: "time steps since the fact",
  },
  sentinel: {
    title: "Sentinel tokens: reading",
    text: "Perplexity of blocks of 256 tokens of held-out text, each read with a part of the cache taken away; every method predicts the same tokens. Gap: the share of what local attention loses against full attention that a method saves.",
    step: "percent of the cache taken away",
  },
  "sentinel-generation": {
    title: "Sentinel tokens: writing",
    text: "Texts written from long prompts of held-out books, with a part of the cache taken away while reading and while writing, against how the book goes on: shared phrases (BLEU-4), shared words in order (ROUGE-L), and similarity (cosine) of the base model's mean hidden states. Fluency: different pairs of words, four words in a row that occurred before, and perplexity under the base model with full context.",
    step: "percent of the cache taken away",
  },
};

/** `"0.458"`, `"12.5"`: as many digits as a reader can use. */
export function formatMeasure(metric: MetricName, value: number): string {
  return metric === "perplexity" ? value.toFixed(Math.abs(value) < 99.95 ? 2 : 0) : value.toFixed(3);
}

/** `"0.458 [0.400, 0.521]"` */
export function formatEstimate(metric: MetricName, { value, low, high }: Estimate): string {
  return `${formatMeasure(metric, value)} [${formatMeasure(metric, low)}, ${formatMeasure(metric, high)}]`;
}

/** `"95% [88%, 103%]"` of the gap between no and full context; `"–"` where that gap is no number. */
export function formatShare({ value, low, high }: Estimate): string {
  if (![value, low, high].every((end) => Number.isFinite(end))) return "–";
  const percent = (share: number): string => `${(100 * share).toFixed(0)}%`;
  return low === high ? percent(value) : `${percent(value)} [${percent(low)}, ${percent(high)}]`;
}

/** The name of a method in reports; a control is named after what it controls. */
export function labelOf({ label, controlOf }: Pick<MethodResult, "label" | "controlOf">): string {
  return controlOf === undefined ? label : `${controlOf}, another sample's memory`;
}
