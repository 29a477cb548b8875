/** @file The result of a comparison of restoring with re-reading, as text. */
import type * as TableModule from "../../dist/cli/table.js";
import type * as SizesModule from "../../dist/format/sizes.js";
import { built } from "../library.js";
import type { Line } from "./summary.js";

/** Everything about one run. */
export interface RestoreReport {
  machine: { cpu: string; cores: number; node: string };
  settings: Readonly<Record<string, string | number>>;
  /** Tokens of the history; a line with fewer could not hold more. */
  historyTokens: number;
  rounds: { restores: number; rereads: number };
  lines: readonly Line[];
  /** Share of all cores that other programs used: on average over the measurements, and the most. */
  others: { mean: number; most: number };
}

function milliseconds(value: number): string {
  return `${value.toFixed(value < 100 ? 1 : 0)} ms`;
}

/** The lines as a table, and under what circumstances they came about. */
export async function formatReport(report: RestoreReport): Promise<string> {
  const { formatTable } = await built<typeof TableModule>("cli/table.js");
  const { formatBytes } = await built<typeof SizesModule>("format/sizes.js");
  const { machine, lines, historyTokens, rounds, others } = report;
  const right = { align: "right" as const };
  const rows = lines.map((line) => ({
    engine: line.engine,
    memory: line.memory,
    slots: line.slots,
    format: line.format,
    bytes: formatBytes(line.bytes),
    tokens: `${line.tokens}${line.tokens < historyTokens ? " (all that fit)" : ""}`,
    restore: milliseconds(line.restoreMs),
    reread: milliseconds(line.rereadMs),
    ratio: `${line.ratio.median.toFixed(1)}x (${line.ratio.lowest.toFixed(1)} to ${line.ratio.highest.toFixed(1)})`,
    same: line.sameToken ? "yes" : "no",
  }));
  const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;
  return [
    `A session of ${historyTokens} tokens: from its file, or from its history, to the next token`,
    formatTable(rows, [
      "engine",
      "memory",
      { key: "tokens", ...right },
      "slots",
      { key: "format", heading: "saved as" },
      { key: "bytes", ...right },
      { key: "restore", ...right },
      { key: "reread", heading: "re-read", ...right },
      { key: "ratio", heading: "ratio (range)", ...right },
      { key: "same", heading: "same token" },
    ]),
    `Medians: ${rounds.restores} restores, in turns, and ${rounds.rereads} re-readings. ` +
      `Other programs used ${percent(others.mean)} of the processors on average, ${percent(others.most)} at most.`,
    `${machine.cpu}, ${machine.cores} cores, Node ${machine.node}; ${JSON.stringify(report.settings)}`,
  ].join("\n");
}
