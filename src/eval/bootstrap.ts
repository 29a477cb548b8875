/**
 * @file Bootstrap confidence intervals. Samples that share a context (a dialogue, a set of demonstrations, a user) are
 * drawn together, within their task or source. Equal seeds draw equal samples, so that two methods measured on the same
 * cases are compared case by case.
 */
import { SeededRandom } from "../data/random.js";
import { total, type Fraction, type Metric } from "./metrics.js";

/** A value with its confidence interval. */
export interface Estimate {
  value: number;
  low: number;
  high: number;
}

/** How intervals are made. */
export interface BootstrapOptions {
  /** Names the draws; methods that are to be compared must share it. */
  key: readonly (string | number)[];
  /** Default 1000. */
  replicates?: number;
}

/** Share of replicates in an interval. */
export const CONFIDENCE = 0.95;

/** A measure on the sample itself, and on each of its replicates. */
export interface Replicated {
  value: number;
  replicates: readonly number[];
}

/**
 * A measure and its replicates.
 * @param strata per task or source its clusters
 */
export function bootstrap(
  metric: Metric,
  strata: readonly (readonly Fraction[])[],
  { key, replicates = 1000 }: BootstrapOptions,
): Replicated {
  const random = new SeededRandom("bootstrap", ...key);
  const drawn = Array.from({ length: replicates }, () =>
    metric.combine(
      strata.map((clusters) => {
        let [sum, count] = [0, 0];
        for (let i = 0; i < clusters.length; i++) {
          const cluster = random.pick(clusters);
          sum += cluster.sum;
          count += cluster.count;
        }
        return { sum, count };
      }),
    ),
  );
  return { value: metric.combine(strata.map((clusters) => total(clusters))), replicates: drawn };
}

/** The value with the interval that {@link CONFIDENCE} of the replicates lie in. */
export function estimate({ value, replicates }: Replicated): Estimate {
  const sorted = replicates.filter((replicate) => Number.isFinite(replicate)).sort((a, b) => a - b);
  const tail = (1 - CONFIDENCE) / 2;
  return { value, low: quantile(sorted, tail) ?? value, high: quantile(sorted, 1 - tail) ?? value };
}

/** How much of the way from `none` to `full` a method goes: 1 is as good as full context. */
export function gapClosed(method: Replicated, none: Replicated, full: Replicated): Replicated {
  const share = (m: number, n: number, f: number): number => (m - n) / (f - n);
  return {
    value: share(method.value, none.value, full.value),
    replicates: method.replicates.map((value, index) =>
      share(value, none.replicates[index] ?? NaN, full.replicates[index] ?? NaN),
    ),
  };
}

/** How much larger one method's measure is than another's, draw by draw. */
export function difference(method: Replicated, other: Replicated): Replicated {
  return {
    value: method.value - other.value,
    replicates: method.replicates.map((value, index) => value - (other.replicates[index] ?? NaN)),
  };
}

function quantile(sorted: readonly number[], share: number): number | undefined {
  if (sorted.length === 0) return undefined;
  const place = share * (sorted.length - 1);
  const below = sorted[Math.floor(place)] as number;
  const above = sorted[Math.ceil(place)] as number;
  return below + (above - below) * (place - Math.floor(place));
}
