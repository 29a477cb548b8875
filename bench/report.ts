/** @file The result of a run, as JSON and as a table. */
import { availableParallelism, cpus, totalmem } from "node:os";
import type { Engine } from "./engines/engine.js";
import { median, ratioOf, type Rates, type Ratio } from "./measure.js";
import { DISTURBED } from "./quiet.js";
import { describeTask, type TaskName, type TaskSizes } from "./tasks.js";

/** What the project promises, as ratios of tokens per second. */
const TARGETS: Readonly<Record<TaskName, number>> = { prefill: 1.2, decode: 1.2, conversation: 3, batch: 2.5 };

/** What one round of a task gave. */
export interface Round {
  /** Tokens per second by engine name. */
  rates: Map<string, number>;
  /** Largest share of all cores that other programs used during one of its measurements. */
  disturbance: number;
}

/** The rounds of each task. */
export type RoundTable = ReadonlyMap<TaskName, readonly Round[]>;

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
  lines: ReportLine[];
  /** Tokens per second by task and engine, a value per round. */
  rates: Record<string, Record<string, Rates>>;
  /** By task, a value per round; see {@link Round}. */
  disturbance: Record<string, number[]>;
}

type TaskRates = Record<string, Rates>;

function ratesOf(rounds: readonly Round[], engines: readonly string[]): TaskRates {
  return Object.fromEntries(engines.map((name) => [name, rounds.map(({ rates }) => rates.get(name) ?? NaN)]));
}

function reportLine(task: TaskName, rates: TaskRates, single: Rates | undefined, sizes: TaskSizes): ReportLine[] {
  const [ours = "", ...others] = Object.keys(rates);
  const line = (against: string, theirs: Rates): ReportLine => {
    const ratio = ratioOf(rates[ours] ?? [], theirs);
    const target = TARGETS[task];
    const medians = Object.fromEntries(Object.entries(rates).map(([name, values]) => [name, median(values)]));
    const description = describeTask(task, sizes);
    return { task, description, rates: medians, against, ratio, target, met: ratio.median >= target };
  };
  if (task === "batch") return single === undefined ? [] : [line(`${ours}, one session`, single)];
  // The stronger of llama.cpp's variants is the one to beat.
  const [strongest] = others.sort((a, b) => median(rates[b] ?? []) - median(rates[a] ?? []));
  return strongest === undefined ? [] : [line(strongest, rates[strongest] ?? [])];
}

/** Puts the measurements together; the first engine is ours. */
export function makeReport(engines: readonly Engine[], table: RoundTable, sizes: TaskSizes): Report {
  const names = engines.map(({ name }) => name);
  const rates = new Map([...table].map(([task, rounds]) => [task, ratesOf(rounds, names)]));
  const single = rates.get("decode")?.[names[0] ?? ""];
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
    lines: [...rates].flatMap(([task, values]) => reportLine(task, values, single, sizes)),
    rates: Object.fromEntries(rates),
    disturbance: Object.fromEntries(
      [...table].map(([task, rounds]) => [task, rounds.map((round) => round.disturbance)]),
    ),
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
  const { machine, engines, lines, disturbance } = report;
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
  const shares = Object.values(disturbance).flat();
  const disturbed = shares.filter((share) => share >= DISTURBED).length;
  const about = [
    `${machine["cpu"]}, ${machine["cores"]} cores, Node ${machine["node"]}.`,
    `Engines took turns in each of ${shares.length} rounds; other programs disturbed ${disturbed} of them.`,
  ];
  return [formatColumns([head, ...rows]), "", ...about, ...settings].join("\n");
}
