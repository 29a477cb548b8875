/** @file The result of a run, as JSON and as a table. */
import { availableParallelism, cpus, totalmem } from "node:os";
import type { Engine } from "./engines/engine.js";
import { median, ratioOf, type Rates, type Ratio } from "./measure.js";
import { describeTask, type TaskName, type TaskSizes } from "./tasks.js";

/** What the project promises, as ratios of tokens per second. */
const TARGETS: Readonly<Record<TaskName, number>> = { prefill: 1.2, decode: 1.2, conversation: 3, batch: 2.5 };

/** Rates by task and engine name. */
export type RateTable = ReadonlyMap<TaskName, ReadonlyMap<string, Rates>>;

/** One line of the report. */
export interface ReportLine {
  task: TaskName;
  description: string;
  /** Median tokens per second by engine. */
  rates: Record<string, number>;
  /** What the first engine is compared with. */
  against: string;
  ratio: Ratio;
  target: number;
  met: boolean;
}

/** Everything about one run. */
export interface Report {
  machine: Record<string, string | number>;
  engines: Record<string, Engine["details"]>;
  sizes: TaskSizes;
  rounds: number;
  lines: ReportLine[];
  rates: Record<string, Record<string, Rates>>;
}

function medians(rates: ReadonlyMap<string, Rates>): Record<string, number> {
  return Object.fromEntries([...rates].map(([name, values]) => [name, median(values)]));
}

/** The fastest of the engines that ours is compared with. */
function strongest(rates: ReadonlyMap<string, Rates>, ours: string): string | undefined {
  const others = [...rates.keys()].filter((name) => name !== ours);
  return others.sort((a, b) => median(rates.get(b) ?? []) - median(rates.get(a) ?? []))[0];
}

function reportLine(task: TaskName, table: RateTable, ours: string, sizes: TaskSizes): ReportLine[] {
  const rates = table.get(task) ?? new Map<string, Rates>();
  const rival = strongest(rates, ours);
  const line = (against: string, mine: Rates, theirs: Rates): ReportLine => {
    const ratio = ratioOf(mine, theirs);
    const target = TARGETS[task];
    const description = describeTask(task, sizes);
    return { task, description, rates: medians(rates), against, ratio, target, met: ratio.median >= target };
  };
  const mine = rates.get(ours) ?? [];
  if (task === "batch") {
    const single = table.get("decode")?.get(ours);
    return single === undefined ? [] : [line(`${ours}, one session`, mine, single)];
  }
  return rival === undefined ? [] : [line(rival, mine, rates.get(rival) ?? [])];
}

/** Puts the measurements together; the first engine is ours. */
export function makeReport(engines: readonly Engine[], table: RateTable, sizes: TaskSizes, rounds: number): Report {
  const ours = (engines[0] as Engine).name;
  return {
    machine: {
      cpu: cpus()[0]?.model.trim() ?? "unknown",
      cores: availableParallelism(),
      memoryGB: Math.round(totalmem() / 1e9),
      node: process.version,
      platform: `${process.platform} ${process.arch}`,
    },
    engines: Object.fromEntries(engines.map(({ name, details }) => [name, details])),
    sizes,
    rounds,
    lines: [...table.keys()].flatMap((task) => reportLine(task, table, ours, sizes)),
    rates: Object.fromEntries([...table].map(([task, rates]) => [task, Object.fromEntries(rates)])),
  };
}

function formatColumns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** The report as text. */
export function formatReport(report: Report): string {
  const { machine, engines, lines, rounds } = report;
  const names = Object.keys(engines);
  const rows = lines.map(({ description, rates, against, ratio, target, met }) => [
    description,
    ...names.map((name) => (rates[name] === undefined ? "" : rates[name].toFixed(1))),
    `${ratio.median.toFixed(2)}x (${ratio.lowest.toFixed(2)} to ${ratio.highest.toFixed(2)})`,
    against,
    `${target}x ${met ? "met" : "MISSED"}`,
  ]);
  const head = ["tokens per second, median", ...names, "ratio, median (range)", "against", "target"];
  const settings = names.map((name) => `${name}: ${JSON.stringify(engines[name])}`);
  const about = `${machine["cpu"]}, ${machine["cores"]} cores, Node ${machine["node"]}; ${rounds} rounds, interleaved.`;
  return [formatColumns([head, ...rows]), "", about, ...settings].join("\n");
}
