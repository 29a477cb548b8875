/** @file The result of a soak as text. */
import type * as TableModule from "../../dist/cli/table.js";
import type * as SizesModule from "../../dist/format/sizes.js";
import { built } from "../library.js";
import { ratioOf, type Ratio } from "../measure.js";
import type { SoakReport } from "./measure.js";

/** What the project promises. */
export const TARGETS = { errors: 0, peakBytes: 2e9, ratio: 2.5, change: 0.02 } as const;

/** Throughput together against alone. */
export function ratioOfRounds({ comparison }: SoakReport): Ratio {
  return ratioOf(
    comparison.map(({ together }) => together),
    comparison.map(({ alone }) => alone),
  );
}

/** The report as a table and what else there is to say. */
export async function formatReport(report: SoakReport): Promise<string> {
  const { formatTable } = await built<typeof TableModule>("cli/table.js");
  const { formatBytes } = await built<typeof SizesModule>("format/sizes.js");
  const { firstToken, betweenTokens, growth, paging, comparison, others } = report;
  const ratio = ratioOfRounds(report);
  const verdict = (met: boolean, target: string): string => `${target}: ${met ? "met" : "MISSED"}`;
  const times = ({ p50, p95, p99 }: typeof firstToken): string =>
    `p50 ${p50.toFixed(0)} ms, p95 ${p95.toFixed(0)} ms, p99 ${p99.toFixed(0)} ms`;
  const sign = growth.slope < 0 ? "-" : "+";
  const rates = (kind: "alone" | "together"): string => comparison.map((round) => round[kind].toFixed(0)).join(", ");
  const rows = [
    {
      what: "errors",
      value: String(report.errors),
      target: verdict(report.errors === TARGETS.errors, "none"),
    },
    {
      what: "most memory",
      value: formatBytes(report.peakBytes),
      target: verdict(report.peakBytes < TARGETS.peakBytes, `under ${formatBytes(TARGETS.peakBytes)}`),
    },
    {
      what: "memory, second half",
      value: `${sign}${formatBytes(Math.abs(growth.slope))} a minute; last quarter ${(100 * growth.change).toFixed(1)} % over the third`,
      target: verdict(growth.change < TARGETS.change, `under ${100 * TARGETS.change} %`),
    },
    { what: "time to first token", value: times(firstToken), target: "" },
    { what: "time between tokens", value: times(betweenTokens), target: "" },
    { what: "tokens per second", value: report.tokensPerSecond.toFixed(0), target: "" },
    { what: "one by one", value: `${rates("alone")} tokens/s`, target: "" },
    { what: `${report.streams} at once`, value: `${rates("together")} tokens/s`, target: "" },
    {
      what: "ratio",
      value: `${ratio.median.toFixed(2)}x (${ratio.lowest.toFixed(2)} to ${ratio.highest.toFixed(2)})`,
      target: verdict(ratio.median >= TARGETS.ratio, `${TARGETS.ratio}x`),
    },
  ];
  const shareOfOthers = others === undefined ? "unknown" : `${(100 * others).toFixed(0)} %`;
  return [
    `${report.sessions} sessions, ${report.streams} streams, ${report.answers} answers in ${report.seconds.toFixed(0)} s`,
    formatTable(rows, ["what", "value", "target"]),
    `At the end ${paging.resident} sessions in the engine with ${formatBytes(paging.memoryBytes)}; ` +
      `${paging.restored} times one came back from the store, ${paging.saved} states were saved.`,
    `Other programs used ${shareOfOthers} of the processors.`,
    ...report.firstErrors,
  ].join("\n");
}
