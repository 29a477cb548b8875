/** @file The golden CCM samples of each mode, laid out by the library; see NOTES.md beside the golden files. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { buildLayout, type ParallelLayout } from "#precis/train/parallel-layout.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";

/** Names of the nine golden modes. */
export const GOLDEN_MODES: readonly string[] = [
  "concat_recur",
  "merge_recur",
  "concat",
  "merge",
  "gist",
  "full",
  "nocontext",
  "concat_recur_sink",
  "merge_recur_sink",
];

/** The library's mode for a golden name such as "merge_recur_sink". */
export function goldenMode(name: string, compTokens = 2): ParallelMode {
  const ids = { vocabSize: 256, padId: 0, bosId: 1 };
  const common = { recursive: name.includes("recur"), compTokens, sink: name.endsWith("sink"), ...ids };
  const method = name === "nocontext" ? "none" : (name.split("_")[0] as ParallelMode["method"]);
  return { method, ...common };
}

interface Segments {
  chunks: number[][];
  query: number[];
  target: number[];
}

/** Both sequences of a golden mode. Labels are the target, EOS included. */
export function goldenLayouts(directory: string, name: string): ParallelLayout[] {
  const tokens = JSON.parse(readFileSync(join(directory, "tokens.json"), "utf8")) as {
    bos: number;
    sep: number[];
    segments: Record<string, Segments[]>;
  };
  // The segments are the same in every mode: gist and full only join the time steps.
  return (tokens.segments["concat_recur"] as Segments[]).map(({ chunks, query, target }) => {
    // Without context the reference starts with BOS where the query else has its separator.
    const start = name === "nocontext" ? [tokens.bos, ...query.slice(tokens.sep.length)] : query;
    const input = [...start, ...target];
    return buildLayout({ chunks, input, labels: { start: start.length } }, goldenMode(name));
  });
}
