/** @file A chart as a file of its own: legend and colours inside, legible on light and dark pages. */
import { drawPlot, escapeText, HEIGHT, lookOf, WIDTH, type Chart } from "./chart.js";

const TITLE_HEIGHT = 34;
const LEGEND_LINE = 20;
const MARGIN = 16;

/** The chart with its title and legend as the text of an SVG file. */
export function drawChartFile(chart: Chart): string {
  const { title, series } = chart;
  const height = TITLE_HEIGHT + HEIGHT + LEGEND_LINE * series.length + MARGIN;
  const legend = series.map((line, index) => {
    const { colour, dash } = lookOf(line, index);
    const y = TITLE_HEIGHT + HEIGHT + LEGEND_LINE * (index + 0.5);
    const key = `<line stroke="${colour}" stroke-width="3"${dash} x1="64" x2="96" y1="${y}" y2="${y}"/>`;
    return `${key}<text class="name" x="106" y="${y + 4}">${escapeText(line.name)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escapeText(title)}">
<style>${STYLE}</style>
<rect class="page" width="${WIDTH}" height="${height}"/>
<text class="title" x="${MARGIN}" y="22">${escapeText(title)}</text>
<g transform="translate(0 ${TITLE_HEIGHT})">${drawPlot(chart)}</g>
${legend.join("\n")}
</svg>
`;
}

/** Readers without style sheets still see lines; those with them get the page's own light or dark. */
const STYLE = `
:root { --page: #fff; --text: #1f2328; --dim: #59636e; --line: #d1d9e0; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --text: #f0f6fc; --dim: #9198a1; --line: #3d444d; } }
text { font: 12px system-ui, sans-serif; }
.page { fill: var(--page); }
.title { fill: var(--text); font-size: 14px; font-weight: 600; }
.name { fill: var(--text); }
.tick, .axis { fill: var(--dim); }
.grid { stroke: var(--line); }
.interval { stroke-width: 6; stroke-opacity: .2; }
`;
