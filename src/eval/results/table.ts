/** @file Tables of the results page, in Markdown. */
import type { Estimate } from "../bootstrap.js";
import type { MetricName } from "../metrics.js";
import { formatEstimate, formatMeasure } from "../report/wording.js";

/** What stands where there is no number. */
export const NOTHING = "–";

/** A measure with its interval, as far as there is one. */
export function cell(metric: MetricName, estimate: Estimate | undefined): string {
  if (estimate === undefined || !Number.isFinite(estimate.value)) return NOTHING;
  const hasInterval = Number.isFinite(estimate.low) && Number.isFinite(estimate.high);
  return hasInterval ? formatEstimate(metric, estimate) : formatMeasure(metric, estimate.value);
}

/** A table whose first column is text and whose others are numbers. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = line(headings.map((_, index) => (index === 0 ? "---" : "---:")));
  return [line(headings), rule, ...rows.map(line)].join("\n");
}
