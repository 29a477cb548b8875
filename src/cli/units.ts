/** @file Numbers for people: savings, counts with their nouns, perplexities, durations. */
import { formatRatio } from "../format/sizes.js";

/** `"17× smaller"`; a memory that saves nothing yet is called so. */
export function formatSaving(ratio: number): string {
  if (ratio === 0) return "holds nothing";
  if (ratio < 1.05) return "nothing saved yet";
  return `${formatRatio(ratio)} smaller`;
}

/** `"1 step"`, `"2 steps"`. */
export function formatCount(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Three significant digits for small perplexities, whole numbers for large ones; `"–"` for none. */
export function formatPerplexity(perplexity: number | undefined): string {
  if (perplexity === undefined || !Number.isFinite(perplexity)) return "–";
  return perplexity.toFixed(perplexity < 9.995 ? 2 : perplexity < 99.95 ? 1 : 0);
}

/** `"340 ms"`, `"1.2 s"`. */
export function formatDuration(milliseconds: number): string {
  return milliseconds < 999.5 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
