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

/** Plain colours for the light page, so that readers without variables or media queries show it too. */
const STYLE = `
text { font: 12px system-ui, sans-serif; }
.page { fill: #fff; }
.title, .name { fill: #1f2328; }
.title { font-size: 14px; font-weight: 600; }
.tick, .axis { fill: #59636e; }
.grid { stroke: #d1d9e0; }
.interval { stroke-width: 6; stroke-opacity: .2; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; }
  .title, .name { fill: #f0f6fc; }
  .tick, .axis { fill: #9198a1; }
  .grid { stroke: #3d444d; }
}
`;
