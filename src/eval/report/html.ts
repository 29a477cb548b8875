/** @file Results as one page that needs nothing else: tables, and charts as inline SVG. */
import { formatBytes } from "../../format/sizes.js";
import type { Estimate } from "../bootstrap.js";
import { METRICS } from "../metrics.js";
import type { EvaluationResult, MethodResult, ResultPoint } from "../result.js";
import { CHART_STYLE, drawChart, escapeText, type ChartPoint } from "./chart.js";
import { linearScale, logScale, pointScale } from "./scale.js";
import { ABOUT, formatEstimate, formatShare } from "./wording.js";

/** The page, with a part for each evaluation. */
export function renderReport(results: readonly EvaluationResult[]): string {
  const parts = results.map((result) => renderPart(result)).join("\n");
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Precis: what memory costs and keeps</title>
<style>${PAGE_STYLE}${CHART_STYLE}</style>
<body>
<h1>What memory costs, and what it keeps</h1>
<p class="dim">Intervals hold 95% of bootstrap samples. Gap: the share of the way from no context to full context.
Shuffled memories hold another sample's context.</p>
${parts}
</body>
</html>
`;
}

function renderPart(result: EvaluationResult): string {
  const { title, text } = ABOUT[result.evaluation];
  const sources = Object.entries(result.sources).map(([name, count]) => `${name} (${count})`);
  return `<section>
<h2>${title}</h2>
<p>${escapeText(text)}</p>
${chartsOf(result).join("\n")}
${renderTable(result)}
<p class="dim">Model ${escapeText(result.model.directory)}, ${escapeText(result.model.dtype)}, seed ${result.seed}. Cases: ${escapeText(sources.join(", "))}.</p>
</section>`;
}

function chartsOf(result: EvaluationResult): string[] {
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
  const series = (place: (point: ResultPoint) => number) =>
    methods.map(({ label, points: own }) => ({ name: label, points: own.flatMap((point) => mark(point, place)) }));
  const mark = (point: ResultPoint, place: (point: ResultPoint) => number): ChartPoint[] => {
    const found = point.metrics[primary];
    if (found === undefined) return [];
    const memory = `${formatBytes(point.memory.bytes)}, ${Math.round(point.memory.slots)} slots`;
    const title = `${point.step} ${step}: ${formatEstimate(primary, found)}; ${memory}`;
    return [{ x: place(point), y: found.value, low: found.low, high: found.high, title }];
  };
  const charts = [
    drawChart({
      title: `${metric.label} against the bytes of memory (${metric.better} is better)`,
      x: {
        label: "keys and values held",
        scale: (range) =>
          logScale(
            points.map(({ memory }) => memory.bytes),
            range,
          ),
        format: formatBytes,
      },
      y: quality,
      series: series(({ memory }) => memory.bytes),
    }),
    drawChart({
      title: `${metric.label} against ${step} (${metric.better} is better)`,
      x: {
        label: step,
        scale: (range) =>
          pointScale(
            points.map((point) => point.step),
            range,
          ),
        format: String,
      },
      y: quality,
      series: series((point) => point.step),
    }),
  ];
  const curves = methods.filter(({ curve }) => curve !== undefined);
  if (curves.length > 0) charts.push(streamChart(curves));
  return charts;
}

/** What the axis of quality covers: all values, and intervals unless they are so wide that they would hide these. */
function visibleRange(estimates: readonly Estimate[]): number[] {
  const values = estimates.map(({ value }) => value).filter((value) => Number.isFinite(value));
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(most - least, 0.1 * Math.abs(most)) / 2;
  const ends = estimates.flatMap(({ low, high }) => [Math.max(low, least - room), Math.min(high, most + room)]);
  return [...values, ...ends];
}

function streamChart(methods: readonly MethodResult[]): string {
  const points = methods.flatMap(({ curve = [] }) => curve);
  return drawChart({
    title: "perplexity along the stream (lower is better)",
    x: {
      label: "tokens read",
      scale: (range) => linearScale([0, ...points.map(({ position }) => position)], range, 8),
      format: (tick) => tick.toLocaleString("en"),
    },
    y: {
      label: "perplexity",
      scale: (range) =>
        linearScale(
          points.map(({ perplexity }) => perplexity.value),
          range,
        ),
      format: String,
    },
    series: methods.map(({ label, curve = [] }) => ({
      name: label,
      points: curve.map(({ position, perplexity: { value, low, high } }) => ({ x: position, y: value, low, high })),
    })),
    marks: false,
  });
}

function renderTable({ evaluation, methods, primary }: EvaluationResult): string {
  const present = Object.values(METRICS).filter(({ name }) =>
    methods.some(({ points }) => points.some((point) => point.metrics[name] !== undefined)),
  );
  const headings = [
    "method",
    ABOUT[evaluation].step,
    ...present.map(({ label }) => label),
    "gap",
    "slots",
    "memory",
    "peak",
    "full cache",
  ];
  const rows = methods.flatMap(({ label, points }) =>
    points.map((point) => {
      const { memory } = point;
      const cells = [
        label,
        point.step.toLocaleString("en"),
        ...present.map(({ name }) => {
          const found = point.metrics[name];
          return found === undefined ? "" : formatEstimate(name, found);
        }),
        gapOf(point, primary),
        String(Math.round(memory.slots)),
        formatBytes(memory.bytes),
        formatBytes(memory.peakBytes),
        formatBytes(memory.fullBytes),
      ];
      return `<tr>${cells.map((cell) => `<td>${escapeText(cell)}</td>`).join("")}</tr>`;
    }),
  );
  const head = headings.map((heading) => `<th>${escapeText(heading)}</th>`).join("");
  return `<div class="wide"><table><thead><tr>${head}</tr></thead><tbody>${rows.join("\n")}</tbody></table></div>`;
}

function gapOf({ gapClosed }: ResultPoint, primary: EvaluationResult["primary"]): string {
  const gap = gapClosed[primary];
  return gap === undefined ? "" : formatShare(gap);
}

const PAGE_STYLE = `
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
.dim { color: var(--dim); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
`;
