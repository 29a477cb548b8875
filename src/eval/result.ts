/** @file Results as data: what `--json` prints and reports are drawn from; and how observations become results. */
import type { AdapterInfo } from "../runtime/protocol.js";
import { bootstrap, difference, estimate, gapClosed, type Estimate, type Replicated } from "./bootstrap.js";
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
  /** The label of the method that this is the shuffled control of, where that one was measured too. */
  controlOf?: string;
  adapter: Pick<AdapterInfo, "directory" | "fingerprint" | "compTokens"> | null;
  /** Working time, summed over all workers. */
  seconds: number;
  points: ResultPoint[];
  /** Perplexity along a stream, stretch by stretch; each is named by its end. */
  curve?: CurvePoint[];
}

/** One method at one time step, or one length of a stream. */
export interface ResultPoint {
  step: number;
  questions: number;
  metrics: Partial<Record<MetricName, Estimate>>;
  bySource: Record<string, Partial<Record<MetricName, number>>>;
  /** Means over questions; peaks are the largest seen. */
  memory: MemorySize;
  /** Share of the way from no context (or the evaluation's own floor) to full context, where both were measured. */
  gapClosed: Partial<Record<MetricName, Estimate>>;
  /** By label of each other method, the measures of this one minus those of the other, case by case. */
  differences: Record<string, Partial<Record<MetricName, Estimate>>>;
}

/** One method on one stretch of a stream. */
export interface CurvePoint extends Pick<ResultPoint, "differences"> {
  position: number;
  perplexity: Estimate;
}

/** Observations of one method. */
export interface Observed {
  result: Omit<MethodResult, "points" | "curve">;
  observations: readonly Observation[];
  /** Those along a stream, each for the stretch that ends at its step. */
  along?: readonly Observation[];
}

/** How observations become results. */
export interface SummaryOptions {
  primary: MetricName;
  seed: number;
  /** Default 1000. */
  replicates?: number;
  /** The method from which gaps to full context are measured; default `none`. */
  floor?: string;
}

/** What an observation adds to each measure. */
const PARTS: Record<MetricName, (observation: Observation) => Fraction | undefined> = {
  perplexity: ({ nll, tokens = 0 }) => (nll === undefined ? undefined : { sum: nll, count: tokens }),
  accuracy: ({ correct }) => (correct === undefined ? undefined : { sum: Number(correct), count: 1 }),
  mae: ({ absoluteError }) => (absoluteError === undefined ? undefined : { sum: absoluteError, count: 1 }),
  bleu: scored("bleu"),
  rouge: scored("rouge"),
  similarity: scored("similarity"),
  distinct: scored("distinct"),
  repetition: scored("repetition"),
};

/** A measure that observations bring along. */
function scored(name: MetricName): (observation: Observation) => Fraction | undefined {
  return ({ scores }) => (scores?.[name] === undefined ? undefined : { sum: scores[name], count: 1 });
}

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
export function summarize(methods: readonly Observed[], options: SummaryOptions): MethodResult[] {
  const points = pointsOf(
    methods.map(({ result, observations }) => ({ ...result, observations })),
    options,
  );
  const along = pointsOf(
    methods.map(({ result, along: observations = [] }) => ({ ...result, observations })),
    options,
  );
  return methods.map(({ result }, index) => {
    const curve = (along[index] as ResultPoint[]).flatMap(({ step, metrics: { perplexity }, differences }) =>
      perplexity === undefined ? [] : [{ position: step, perplexity, differences }],
    );
    return { ...result, points: points[index] as ResultPoint[], ...(curve.length > 0 && { curve }) };
  });
}

/** A measured method. */
interface Measured extends Pick<MethodResult, "label" | "method" | "shuffled"> {
  observations: readonly Observation[];
}

type ReplicatedMetrics = Partial<Record<MetricName, Replicated>>;

/** Per method its points, one for each step that any method was asked at. */
function pointsOf(methods: readonly Measured[], options: SummaryOptions): ResultPoint[][] {
  const results: ResultPoint[][] = methods.map(() => []);
  const steps = new Set(methods.flatMap(({ observations }) => observations.map(({ step }) => step)));
  for (const step of [...steps].sort((a, b) => a - b)) {
    const drawn: ReplicatedMetrics[] = [];
    for (const [index, { observations }] of methods.entries()) {
      const here = observations.filter((observation) => observation.step === step);
      const { point, replicated } = summarizePoint(here, step, options);
      (results[index] as ResultPoint[]).push(point);
      drawn.push(replicated);
    }
    const bound = (name: string): ReplicatedMetrics =>
      drawn[methods.findIndex(({ method, shuffled }) => method === name && !shuffled)] ?? {};
    const [none, full] = [bound(options.floor ?? "none"), bound("full")];
    for (const [index, own] of drawn.entries()) {
      const { gapClosed: gaps, differences } = (results[index] as ResultPoint[]).at(-1) as ResultPoint;
      for (const { name } of Object.values(METRICS)) {
        const [floor, value, ceiling] = [none[name], own[name], full[name]];
        if (floor === undefined || value === undefined || ceiling === undefined) continue;
        gaps[name] = estimate(gapClosed(value, floor, ceiling));
      }
      for (const [other, { label }] of methods.entries()) {
        if (other !== index) differences[label] = differencesOf(own, drawn[other] ?? {});
      }
    }
  }
  return results;
}

function differencesOf(own: ReplicatedMetrics, other: ReplicatedMetrics): ResultPoint["differences"][string] {
  const found: ResultPoint["differences"][string] = {};
  for (const { name } of Object.values(METRICS)) {
    const [here, there] = [own[name], other[name]];
    if (here !== undefined && there !== undefined) found[name] = estimate(difference(here, there));
  }
  return found;
}

function summarizePoint(
  observations: readonly Observation[],
  step: number,
  { seed, replicates }: SummaryOptions,
): { point: ResultPoint; replicated: ReplicatedMetrics } {
  const point: ResultPoint = {
    step,
    questions: observations.length,
    metrics: {},
    bySource: {},
    memory: meanSize(observations.map(({ memory }) => memory)),
    gapClosed: {},
    differences: {},
  };
  const replicated: ReplicatedMetrics = {};
  for (const metric of Object.values(METRICS)) {
    const strata = clustered(observations, metric.name);
    if (strata.size === 0) continue;
    // The same key for all methods: equal draws, so that their differences are those of the methods.
    const found = bootstrap(metric, [...strata.values()], { key: [seed, step, metric.name], replicates });
    point.metrics[metric.name] = estimate(found);
    replicated[metric.name] = found;
    for (const [name, clusters] of strata) {
      (point.bySource[name] ??= {})[metric.name] = metric.combine([total(clusters)]);
    }
  }
  return { point, replicated };
}

function meanSize(sizes: readonly MemorySize[]): MemorySize {
  const mean = (field: keyof MemorySize): number =>
    sizes.reduce((sum, size) => sum + (size[field] ?? 0), 0) / Math.max(1, sizes.length);
  const most = (field: keyof MemorySize): number => sizes.reduce((max, size) => Math.max(max, size[field] ?? 0), 0);
  return {
    slots: mean("slots"),
    bytes: mean("bytes"),
    peakSlots: most("peakSlots"),
    peakBytes: most("peakBytes"),
    ...(sizes.some(({ seenSlots }) => seenSlots !== undefined) ? { seenSlots: mean("seenSlots") } : {}),
    contextTokens: mean("contextTokens"),
    fullBytes: mean("fullBytes"),
  };
}
