/** @file Which of two methods reads a stream better, where, and whether that is beyond chance. */
import type { Estimate } from "../bootstrap.js";
import type { MethodResult } from "../result.js";

/** Perplexities of the first method minus those of the second, paired. */
export interface Pair {
  first: MethodResult;
  second: MethodResult;
  /** From the start up to each length. */
  points: Estimate[];
  /** On each stretch. */
  stretches: Estimate[];
}

/** Every two methods, later ones first. */
export function pairs(methods: readonly MethodResult[]): Pair[] {
  return methods.flatMap((second, index) =>
    methods.slice(index + 1).map((first) => ({
      first,
      second,
      points: first.points.flatMap(({ differences }) => differences[second.label]?.perplexity ?? []),
      stretches: (first.curve ?? []).flatMap(({ differences }) => differences[second.label]?.perplexity ?? []),
    })),
  );
}

/** What the differences allow to say, in one sentence. */
export function verdict({ first, second, points, stretches }: Pair): string {
  const describe = (estimates: readonly Estimate[], what: string, plural: string): string => {
    const lower = estimates.filter(({ high }) => high < 0).length;
    const higher = estimates.filter(({ low }) => low > 0).length;
    const all = estimates.length;
    if (lower === all) return `lower at every ${what} (${all} of ${all} intervals exclude 0)`;
    if (higher === all) return `higher at every ${what} (${all} of ${all} intervals exclude 0)`;
    return `lower beyond chance at ${lower} of ${all} ${plural}, higher at ${higher}, undecided at ${all - lower - higher}`;
  };
  const parts = [
    describe(points, "length", "lengths"),
    ...(stretches.length > 0 ? [describe(stretches, "stretch", "stretches")] : []),
  ];
  return `${first.label} against ${second.label}: perplexity ${parts.join("; ")}.`;
}
