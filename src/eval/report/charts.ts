/** @file The charts of an evaluation: quality against memory and against the time step, perplexity along a stream. */
import { formatBytes } from "../../format/sizes.js";
import type { Estimate } from "../bootstrap.js";
import { METRICS } from "../metrics.js";
import type { EvaluationResult, MethodResult, ResultPoint } from "../result.js";
import type { Chart, ChartPoint, Series } from "./chart.js";
import { linearScale, logScale, pointScale } from "./scale.js";
import { ABOUT, formatEstimate, labelOf } from "./wording.js";

/** A chart and what it shows, as a part of a file's name. */
export interface NamedChart {
  name: "memory" | "steps" | "curve";
  chart: Chart;
}

/** Every chart of an evaluation. */
export function chartsOf(result: EvaluationResult): NamedChart[] {
  const { methods, primary } = result;
  const { step } = ABOUT[result.evaluation];
  const metric = METRICS[primary];
  const points = methods.flatMap((method) => method.points);
  const estimates = points.map((point) => point.metrics[primary]).filter((found) => found !== undefined);
  const quality = {
    label: metric.label,
    scale: (range: readonly [number, number]) => linearScale(visibleRange(estimates), range),
    format: String,
  };
  const mark = (point: ResultPoint, place: (point: ResultPoint) => number): ChartPoint[] => {
    const found = point.metrics[primary];
    if (found === undefined) return [];
    const memory = `${formatBytes(point.memory.bytes)}, ${Math.round(point.memory.slots)} slots`;
    const title = `${point.step} ${step}: ${formatEstimate(primary, found)}; ${memory}`;
    return [{ x: place(point), y: found.value, low: found.low, high: found.high, title }];
  };
  const series = (place: (point: ResultPoint) => number): Series[] =>
    seriesOf(methods, ({ points: own }) => own.flatMap((point) => mark(point, place)));
  const bytes = points.map(({ memory }) => memory.bytes);
  const steps = points.map((point) => point.step);
  const charts: NamedChart[] = [
    {
      name: "memory",
      chart: {
        title: `${metric.label} against the bytes of memory (${metric.better} is better)`,
        x: { label: "keys and values held", scale: (range) => logScale(bytes, range), format: formatBytes },
        y: quality,
        series: series(({ memory }) => memory.bytes),
      },
    },
    {
      name: "steps",
      chart: {
        title: `${metric.label} against ${step} (${metric.better} is better)`,
        x: { label: step, scale: (range) => pointScale(steps, range), format: (tick) => tick.toLocaleString("en") },
        y: quality,
        series: series((point) => point.step),
      },
    },
  ];
  const curves = methods.filter(({ curve }) => curve !== undefined);
  return curves.length > 0 ? [...charts, { name: "curve", chart: curveChart(curves) }] : charts;
}

/** A line for each method; a control is dashed, in the colour of the method that it controls. */
function seriesOf(
  methods: readonly MethodResult[],
  pointsOf: (method: MethodResult) => readonly ChartPoint[],
): Series[] {
  const originals = methods.filter(({ controlOf }) => controlOf === undefined).map(({ label }) => label);
  return methods.map((method) => ({
    name: labelOf(method),
    points: pointsOf(method),
    look: { colour: originals.indexOf(method.controlOf ?? method.label), dashed: method.controlOf !== undefined },
  }));
}

/** What the axis of quality covers: all values, and intervals unless they are so wide that they would hide these. */
function visibleRange(estimates: readonly Estimate[]): number[] {
  const values = estimates.map(({ value }) => value).filter((value) => Number.isFinite(value));
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(most - least, 0.1 * Math.abs(most)) / 2;
  const ends = estimates.flatMap(({ low, high }) => [Math.max(low, least - room), Math.min(high, most + room)]);
  return [...values, ...ends];
}

function curveChart(methods: readonly MethodResult[]): Chart {
  const points = methods.flatMap(({ curve = [] }) => curve);
  const positions = [0, ...points.map(({ position }) => position)];
  return {
    title: "perplexity of each stretch along the stream (lower is better)",
    x: {
      label: "tokens read",
      scale: (range) => linearScale(positions, range, 8),
      format: (tick) => tick.toLocaleString("en"),
    },
    y: {
      label: "perplexity",
      scale: (range) => linearScale(visibleRange(points.map(({ perplexity }) => perplexity)), range),
      format: String,
    },
    series: seriesOf(methods, ({ curve = [] }) =>
      curve.map(({ position, perplexity: { value, low, high } }) => ({ x: position, y: value, low, high })),
    ),
    marks: false,
  };
}
