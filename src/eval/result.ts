/** @file Results as data: what `--json` prints and reports are drawn from; and how observations become results. */
import type { AdapterInfo } from "../runtime/protocol.js";
import { bootstrap, estimate, gapClosed, type Estimate, type Replicated } from "./bootstrap.js";
import type { MemorySize, Observation } from "./case.js";
import { METRICS, total, type Fraction, type MetricName } from "./metrics.js";
import type { EvaluationName } from "./tasks/task.js";

/** A whole evaluation. */
export interface EvaluationResult {
  evaluation: EvaluationName;
  model: { directory: string; fingerprint: string; dtype: string; bytesPerSlot: number };
  seed: number;
  /** The measure that comes first. */
  primary: MetricName;
  /** Cases per source or task. */
  sources: Record<string, number>;
  methods: MethodResult[];
}

/** What one method achieved. */
export interface MethodResult {
  label: string;
  method: string;
  options: Readonly<Record<string, unknown>>;
  shuffled: boolean;
  adapter: Pick<AdapterInfo, "directory" | "fingerprint" | "compTokens"> | null;
  seconds: number;
  points: ResultPoint[];
  /** Perplexity along a stream, stretch by stretch. */
  curve?: { position: number; perplexity: number }[];
}

/** One method at one time step, or one length of a stream. */
export interface ResultPoint {
  step: number;
  questions: number;
  metrics: Partial<Record<MetricName, Estimate>>;
  bySource: Record<string, Partial<Record<MetricName, number>>>;
  /** Means over questions; peaks are the largest seen. */
  memory: MemorySize;
  /** Share of the way from no context to full context, by the primary measure, where both were measured. */
  gapClosed?: Estimate;
}

/** Observations of one method. */
export interface Observed {
  result: Omit<MethodResult, "points">;
  observations: readonly Observation[];
}

/** What an observation adds to each measure. */
const PARTS: Record<MetricName, (observation: Observation) => Fraction | undefined> = {
  perplexity: ({ nll, tokens = 0 }) => (nll === undefined ? undefined : { sum: nll, count: tokens }),
  accuracy: ({ correct }) => (correct === undefined ? undefined : { sum: Number(correct), count: 1 }),
  mae: ({ absoluteError }) => (absoluteError === undefined ? undefined : { sum: absoluteError, count: 1 }),
};

/** Per stratum, the sums of its clusters. */
function clustered(observations: readonly Observation[], metric: MetricName): Map<string, Fraction[]> {
  const strata = new Map<string, Map<string, Fraction>>();
  for (const observation of observations) {
    const part = PARTS[metric](observation);
    if (part === undefined) continue;
    const clusters = strata.get(observation.stratum) ?? new Map<string, Fraction>();
    strata.set(observation.stratum, clusters);
    clusters.set(observation.cluster, total([clusters.get(observation.cluster) ?? { sum: 0, count: 0 }, part]));
  }
  return new Map([...strata].map(([name, clusters]) => [name, [...clusters.values()]]));
}

/** Turns what was observed into points with intervals. */
export function summarize(
  methods: readonly Observed[],
  { primary, seed, replicates }: { primary: MetricName; seed: number; replicates?: number },
): MethodResult[] {
  const results: MethodResult[] = methods.map(({ result }) => ({ ...result, points: [] }));
  const steps = [...new Set(methods.flatMap(({ observations }) => observations.map(({ step }) => step)))];
  for (const step of steps.sort((a, b) => a - b)) {
    const drawn: (Replicated | undefined)[] = [];
    for (const [index, { observations }] of methods.entries()) {
      const here = observations.filter((observation) => observation.step === step);
      const { point, replicated } = summarizePoint(here, step, { primary, seed, replicates });
      (results[index] as MethodResult).points.push(point);
      drawn.push(replicated);
    }
    const bound = (name: string): Replicated | undefined =>
      drawn[results.findIndex(({ method, shuffled }) => method === name && !shuffled)];
    const [none, full] = [bound("none"), bound("full")];
    if (none === undefined || full === undefined) continue;
    for (const [index, replicated] of drawn.entries()) {
      const point = results[index]?.points.at(-1);
      if (replicated === undefined || point === undefined) continue;
      point.gapClosed = estimate(gapClosed(replicated, none, full));
    }
  }
  return results;
}

function summarizePoint(
  observations: readonly Observation[],
  step: number,
  { primary, seed, replicates }: { primary: MetricName; seed: number; replicates?: number },
): { point: ResultPoint; replicated: Replicated | undefined } {
  const point: ResultPoint = {
    step,
    questions: observations.length,
    metrics: {},
    bySource: {},
    memory: meanSize(observations.map(({ memory }) => memory)),
  };
  let replicated: Replicated | undefined;
  for (const metric of Object.values(METRICS)) {
    const strata = clustered(observations, metric.name);
    if (strata.size === 0) continue;
    // The same key for all methods: equal draws, so that their differences are those of the methods.
    const found = bootstrap(metric, [...strata.values()], { key: [seed, step, metric.name], replicates });
    point.metrics[metric.name] = estimate(found);
    if (metric.name === primary) replicated = found;
    for (const [name, clusters] of strata) {
      (point.bySource[name] ??= {})[metric.name] = metric.combine([total(clusters)]);
    }
  }
  return { point, replicated };
}

function meanSize(sizes: readonly MemorySize[]): MemorySize {
  const mean = (field: keyof MemorySize): number =>
    sizes.reduce((sum, size) => sum + size[field], 0) / Math.max(1, sizes.length);
  const most = (field: keyof MemorySize): number => sizes.reduce((max, size) => Math.max(max, size[field]), 0);
  return {
    slots: mean("slots"),
    bytes: mean("bytes"),
    peakSlots: most("peakSlots"),
    peakBytes: most("peakBytes"),
    contextTokens: mean("contextTokens"),
    fullBytes: mean("fullBytes"),
  };
}
