/** @file Line charts as SVG text: lines through points, with their intervals as bands or bars. */
import type { Scale } from "./scale.js";

/** A point of a line. */
export interface ChartPoint {
  x: number;
  y: number;
  low?: number;
  high?: number;
  /** Shown when the pointer rests on the point. */
  title?: string;
}

/** A line and its name. */
export interface Series {
  name: string;
  points: readonly ChartPoint[];
  /** Which colour and dash; default: those of the series' place. Dashed lines share the colour of what they belong to. */
  look?: { colour: number; dashed: boolean };
}

/** An axis and what stands beside it. */
export interface Axis {
  label: string;
  /** Makes the scale for a range of the drawing. */
  scale: (range: readonly [number, number]) => Scale;
  format: (tick: number) => string;
}

/** What to draw. */
export interface Chart {
  title: string;
  x: Axis;
  y: Axis;
  series: readonly Series[];
  /** Draws a mark at every point. Default true; curves of many points are better without. */
  marks?: boolean;
}

/** Width of a drawing, in its own units. */
export const WIDTH = 720;
/** Height of a drawing without its legend. */
export const HEIGHT = 380;
const MARGIN = { top: 16, right: 28, bottom: 48, left: 64 };

/** Colours that remain apart for most kinds of colour blindness (Okabe and Ito). */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a", "#b8a800"];
const DASHES = ["", "6 3", "2 3"];

/** Text that is safe inside markup. */
export function escapeText(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** The chart as an SVG element with its legend in markup, for a page that defines the classes of {@link CHART_STYLE}. */
export function drawChart(chart: Chart): string {
  const { title, series } = chart;
  const svg = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeText(title)}">${drawPlot(chart)}</svg>`;
  return `<figure><figcaption>${escapeText(title)}</figcaption>${svg}${drawLegend(series)}</figure>`;
}

/** Axes and lines alone, as parts of an SVG element. */
export function drawPlot({ x, y, series, marks = true }: Chart): string {
  const right = WIDTH - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const horizontal = x.scale([MARGIN.left, right]);
  const vertical = y.scale([bottom, MARGIN.top]);
  const parts = [
    ...vertical.ticks.map((tick) => {
      const at = round(vertical.at(tick));
      const line = `<line class="grid" x1="${MARGIN.left}" x2="${right}" y1="${at}" y2="${at}"/>`;
      return `${line}<text class="tick" text-anchor="end" x="${MARGIN.left - 8}" y="${at + 4}">${escapeText(y.format(tick))}</text>`;
    }),
    ...horizontal.ticks.map((tick) => {
      const at = round(horizontal.at(tick));
      const line = `<line class="grid" x1="${at}" x2="${at}" y1="${bottom}" y2="${bottom + 5}"/>`;
      return `${line}<text class="tick" text-anchor="middle" x="${at}" y="${bottom + 20}">${escapeText(x.format(tick))}</text>`;
    }),
    `<text class="axis" text-anchor="middle" x="${(MARGIN.left + right) / 2}" y="${HEIGHT - 8}">${escapeText(x.label)}</text>`,
    `<text class="axis" text-anchor="middle" transform="translate(16 ${(MARGIN.top + bottom) / 2}) rotate(-90)">${escapeText(y.label)}</text>`,
    ...series.map((line, index) => drawSeries(line, index, horizontal, vertical, marks)),
  ];
  return parts.join("");
}

/** Colour and dash of a series at this place; `dash` is an attribute with a space before it, or nothing. */
export function lookOf(series: Series, place: number): { colour: string; dash: string } {
  const index = series.look?.colour ?? place;
  const colour = COLOURS[index % COLOURS.length] as string;
  const turn = Math.floor(index / COLOURS.length) + Number(series.look?.dashed ?? false);
  const dash = DASHES[turn % DASHES.length] as string;
  return { colour, dash: dash === "" ? "" : ` stroke-dasharray="${dash}"` };
}

function drawSeries(series: Series, index: number, x: Scale, y: Scale, marks: boolean): string {
  const { points } = series;
  const { colour, dash } = lookOf(series, index);
  const shown = points.filter((point) => Number.isFinite(point.y));
  const place = (point: ChartPoint, value = point.y): string => `${round(x.at(point.x))},${round(y.at(value))}`;
  const ranged = shown.filter(({ low, high }) => Number.isFinite(low) && Number.isFinite(high));
  const bars = ranged.map((point) => {
    const at = round(x.at(point.x));
    const [from, to] = [point.low, point.high].map((end) => round(within(y.at(end as number))));
    return `<line class="interval" stroke="${colour}" x1="${at}" x2="${at}" y1="${from}" y2="${to}"/>`;
  });
  const line = `<polyline fill="none" stroke="${colour}" stroke-width="2"${dash} points="${shown.map((point) => place(point)).join(" ")}"/>`;
  const dots = shown.map((point) => {
    const [cx, cy] = [round(x.at(point.x)), round(y.at(point.y))];
    const title = point.title === undefined ? "" : `<title>${escapeText(point.title)}</title>`;
    return `<circle fill="${colour}" cx="${cx}" cy="${cy}" r="4">${title}</circle>`;
  });
  return `<g>${bars.join("")}${line}${marks ? dots.join("") : ""}</g>`;
}

function drawLegend(series: readonly Series[]): string {
  const items = series.map((line, index) => {
    const { colour, dash } = lookOf(line, index);
    const key = `<svg class="key" viewBox="0 0 24 8" aria-hidden="true"><line stroke="${colour}" stroke-width="3"${dash} x1="0" x2="24" y1="4" y2="4"/></svg>`;
    return `<li>${key}${escapeText(line.name)}</li>`;
  });
  return `<ul class="legend">${items.join("")}</ul>`;
}

/** Cuts off what leaves the drawing at its top or bottom. */
function within(place: number): number {
  return Math.min(HEIGHT - MARGIN.bottom, Math.max(MARGIN.top, place));
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Style of what {@link drawChart} draws. */
export const CHART_STYLE = `
figure { margin: 1.5rem 0; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
figure > svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--line); }
.interval { stroke-width: 6; stroke-opacity: .2; }
.tick, .axis { fill: var(--dim); font: 12px system-ui, sans-serif; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .4rem 0 0; font-size: .85rem; }
.key { width: 24px; height: 8px; margin-right: .4rem; vertical-align: middle; }
`;
