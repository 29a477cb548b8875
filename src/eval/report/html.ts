/** @file Results as one page that needs nothing else: tables, and charts as inline SVG. */
import { formatBytes } from "../../format/sizes.js";
import { METRICS } from "../metrics.js";
import type { EvaluationResult, ResultPoint } from "../result.js";
import { CHART_STYLE, drawChart, escapeText } from "./chart.js";
import { chartsOf } from "./charts.js";
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
${chartsOf(result)
  .map(({ chart }) => drawChart(chart))
  .join("\n")}
${renderTable(result)}
<p class="dim">Model ${escapeText(result.model.directory)}, ${escapeText(result.model.dtype)}, seed ${result.seed}. Cases: ${escapeText(sources.join(", "))}.</p>
</section>`;
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
