/**
 * @file Who attends to whom in the parallel forward, stated once per pair of segments. Every token of a segment follows
 * the same rule, so a row of the mask is its segment's pattern cut off at the diagonal.
 */

import type { ParallelLayout, Segment } from "./parallel-layout.js";
import type { ParallelMode } from "./parallel-mode.js";

/**
 * The additive bias of a pair that may not attend. Finite, because a row of a pad masks everything and would turn to
 * NaN under -Infinity; within the range of half floats; and far enough below any score that its weight is exactly 0.
 */
export const MASKED_BIAS = -30_000;

/** A layout's own rule of attention, on top of causality; every token attends to itself. */
export interface MaskRule {
  /** Whether tokens of segment `row` may attend to those of `column`. */
  sees(row: Segment, column: Segment): boolean;
  /** First column that a token may attend to; default 0. */
  firstColumn?(row: number): number;
  /** Columns that may be attended to even before the first one; default none. */
  lastingColumns?: readonly number[];
  /** Columns that only they themselves attend to; default none. */
  hiddenColumns?: readonly number[];
}

/**
 * Whether a token of segment `row` may attend to one of segment `column`, but for causality and sinks. A segment sees
 * its own block, and:
 * - concat, recursive: every COMP before it; not recursive: only the input block does;
 * - merge, recursive: the SUM of the block just before, the latest memory; not recursive: SUM sees every COMP, and the
 *   input has SUM in its own block;
 * - gist: the COMP of the block just before;
 * - compressive, recursive: every SUM before it; not recursive: only the input block does;
 * - full, none: all is one block.
 * @param inputBlock index of the input's block, the last one
 */
export function segmentSees(mode: ParallelMode, row: Segment, column: Segment, inputBlock: number): boolean {
  if (row.block === column.block) return true;
  switch (mode.method) {
    case "concat":
      return column.kind === "comp" && (mode.recursive || row.block === inputBlock);
    case "merge":
      if (mode.recursive) return column.kind === "sum" && column.block === row.block - 1;
      return column.kind === "comp" && row.kind === "sum";
    case "gist":
      return column.kind === "comp" && column.block === row.block - 1;
    case "compressive":
      return column.kind === "sum" && (mode.recursive || row.block === inputBlock);
    case "full":
    case "none":
      return false;
  }
}

/** Whether token `row` of the layout attends to token `column`, causality and sinks included. */
export function attends(layout: ParallelLayout, row: number, column: number): boolean {
  const { mask, segments, sinkColumns } = layout;
  if (column > row) return false;
  if (column === row || sinkColumns.includes(column)) return true;
  const isLasting = mask.lastingColumns?.includes(column) === true;
  if ((!isLasting && column < (mask.firstColumn?.(row) ?? 0)) || mask.hiddenColumns?.includes(column) === true) {
    return false;
  }
  const segmentOf = (token: number): Segment | undefined =>
    segments.find((segment) => token >= segment.start && token < segment.end);
  const [rowSegment, columnSegment] = [segmentOf(row), segmentOf(column)];
  if (rowSegment === undefined || columnSegment === undefined) return false;
  return mask.sees(rowSegment, columnSegment);
}

/**
 * Writes the mask of one layout, 1 where the row's token attends to the column's; what it does not attend to stays as
 * it is. O(seq²) bytes copied, no test per element.
 * @param target row-major [rows, stride], rows and columns of the layout starting at `start`
 */
export function writeAttend(layout: ParallelLayout, target: Uint8Array, stride: number, start: number): void {
  const { mask, segments, sinkColumns } = layout;
  const pattern = new Uint8Array(layout.seq);
  const lasting = mask.lastingColumns ?? [];
  for (const row of segments) {
    pattern.fill(0);
    for (const column of segments) if (mask.sees(row, column)) pattern.fill(1, column.start, column.end);
    for (const column of mask.hiddenColumns ?? []) pattern[column] = 0;
    for (const column of sinkColumns) pattern[column] = 1;
    for (let i = row.start; i < row.end; i++) {
      const first = Math.min(i, mask.firstColumn?.(i) ?? 0);
      const at = (start + i) * stride + start;
      target.set(pattern.subarray(first, i + 1), at + first);
      for (const column of sinkColumns) if (column < first) target[at + column] = 1;
      for (const column of lasting) if (column < first) target[at + column] = pattern[column] as number;
      target[at + i] = 1;
    }
  }
}
