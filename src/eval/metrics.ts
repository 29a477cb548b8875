/** @file What evaluations measure: perplexity, accuracy, error of ratings, and qualities of generated text. */

/** Measures of quality. */
export type MetricName =
  "perplexity" | "accuracy" | "mae" | "bleu" | "rouge" | "similarity" | "distinct" | "repetition";

/** A sum and what it is divided by; sums of several add up to that of their union. */
export interface Fraction {
  sum: number;
  count: number;
}

/** How a measure is read. */
export interface Metric {
  name: MetricName;
  label: string;
  better: "lower" | "higher";
  /** Perplexity pools all tokens; the others average over tasks or sources, each of which counts the same. */
  combine: (strata: readonly Fraction[]) => number;
}

/** Every measure. */
export const METRICS: Readonly<Record<MetricName, Metric>> = {
  perplexity: {
    name: "perplexity",
    label: "perplexity",
    better: "lower",
    combine: (strata) => perplexity(total(strata)),
  },
  accuracy: { name: "accuracy", label: "accuracy", better: "higher", combine: meanOfStrata },
  mae: { name: "mae", label: "mean absolute error", better: "lower", combine: meanOfStrata },
  bleu: { name: "bleu", label: "BLEU-4", better: "higher", combine: meanOfStrata },
  rouge: { name: "rouge", label: "ROUGE-L", better: "higher", combine: meanOfStrata },
  similarity: { name: "similarity", label: "similarity", better: "higher", combine: meanOfStrata },
  distinct: { name: "distinct", label: "distinct-2", better: "higher", combine: meanOfStrata },
  repetition: { name: "repetition", label: "repetition", better: "lower", combine: meanOfStrata },
};

/** Adds fractions up. */
export function total(parts: readonly Fraction[]): Fraction {
  let [sum, count] = [0, 0];
  for (const part of parts) {
    sum += part.sum;
    count += part.count;
  }
  return { sum, count };
}

/** exp of the mean negative log-likelihood of tokens. */
export function perplexity({ sum, count }: Fraction): number {
  return Math.exp(sum / count);
}

function meanOfStrata(strata: readonly Fraction[]): number {
  return strata.reduce((mean, { sum, count }) => mean + sum / count, 0) / strata.length;
}

/** Index of the largest number; the first of several. */
export function argmax(values: readonly number[]): number {
  let best = 0;
  for (const [index, value] of values.entries()) if (value > (values[best] as number)) best = index;
  return best;
}
