/** @file The loss curve of a run as an SVG picture. */
import { writeFile } from "node:fs/promises";
import type { MetricsLine } from "./run-directory.js";

const WIDTH = 720;
const HEIGHT = 360;
const MARGIN = { left: 56, right: 16, top: 16, bottom: 36 };

/** Round numbers that divide [low, high] into about five parts. */
function ticks(low: number, high: number): number[] {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

/** Draws training loss (and held-out loss, where measured) against steps. */
export async function writeLossPlot(file: string, metrics: readonly MetricsLine[]): Promise<void> {
  const held = metrics.flatMap(({ step, evalLoss }) => (evalLoss === undefined ? [] : [{ step, loss: evalLoss }]));
  const losses = [...metrics, ...held].map(({ loss }) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const lastStep = metrics[metrics.length - 1]?.step ?? 1;
  const x = (step: number): number => MARGIN.left + (step / lastStep) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (loss: number): number =>
    MARGIN.top + ((high - loss) / (high - low || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const path = (points: readonly { step: number; loss: number }[]): string =>
    points.map(({ step, loss }, i) => `${i === 0 ? "M" : "L"}${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join("");
  const grid = ticks(low, high).map(
    (loss) =>
      `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${y(loss)}" y2="${y(loss)}" stroke="#ddd"/>` +
      `<text x="${MARGIN.left - 6}" y="${y(loss) + 4}" text-anchor="end">${Number(loss.toPrecision(3))}</text>`,
  );
  const steps = ticks(0, lastStep).map(
    (step) => `<text x="${x(step)}" y="${HEIGHT - MARGIN.bottom + 18}" text-anchor="middle">${step}</text>`,
  );
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="11" fill="#333">
<rect width="100%" height="100%" fill="white"/>
${grid.join("\n")}
${steps.join("\n")}
<path d="${path(metrics)}" fill="none" stroke="#4c78a8"/>
<path d="${path(held)}" fill="none" stroke="#e45756" stroke-width="2"/>
<text x="${WIDTH - MARGIN.right}" y="${HEIGHT - 4}" text-anchor="end">step</text>
<text x="${MARGIN.left + 8}" y="${MARGIN.top + 12}" fill="#4c78a8">training loss (nats per label)</text>
<text x="${MARGIN.left + 8}" y="${MARGIN.top + 28}" fill="#e45756">held-out loss</text>
</svg>
`;
  await writeFile(file, svg);
}
