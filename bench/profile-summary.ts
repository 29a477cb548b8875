/** @file Reads a profile that ONNX Runtime wrote and sums up where the time of its runs went. */
import { readFileSync } from "node:fs";

/** One event of the profile; times in microseconds. */
interface ProfileEvent {
  cat?: string;
  name: string;
  ts: number;
  dur: number;
  args?: {
    op_name?: string;
    /** Each input or output as `{ "<element type>": [sizes] }`. */
    input_type_shape?: Record<string, number[]>[];
    output_type_shape?: Record<string, number[]>[];
  };
}

/** Time of one kind of operator within one run. */
export interface OperatorTime {
  operator: string;
  milliseconds: number;
  nodes: number;
}

/** Runs that took the same number of rows (tokens) through the model's matrix products. */
export interface RunGroup {
  /** Rows of the run's widest operator input, which is batch times tokens for a decoder. */
  rows: number;
  runs: number;
  /** Median milliseconds of a run, and of the operators inside it. */
  runMilliseconds: number;
  kernelMilliseconds: number;
  operators: OperatorTime[];
}

/** How finely operators are told apart. */
export interface SummaryOptions {
  /** Separate matrix products by their sizes. */
  byShape?: boolean;
}

function shapesOf(entries: readonly Record<string, number[]>[] | undefined): number[][] {
  return (entries ?? []).flatMap((entry) => Object.values(entry));
}

const isProduct = (operator: string): boolean => /MatMul|Gemm/.test(operator);

function rowsOf(event: ProfileEvent): number {
  const [input = []] = shapesOf(event.args?.input_type_shape);
  return input.slice(0, -1).reduce((product, size) => product * size, 1);
}

function label(event: ProfileEvent, { byShape = false }: SummaryOptions): string {
  const operator = event.args?.op_name ?? "?";
  if (!byShape || !isProduct(operator)) return operator;
  const [input = []] = shapesOf(event.args?.input_type_shape);
  const [output = []] = shapesOf(event.args?.output_type_shape);
  return `${operator} ${input.at(-1)} to ${output.at(-1)}`;
}

interface Run {
  milliseconds: number;
  rows: number;
  operators: Map<string, { milliseconds: number; nodes: number }>;
}

function splitIntoRuns(events: readonly ProfileEvent[], options: SummaryOptions): Run[] {
  const spans = events.filter(({ name }) => name === "model_run").sort((a, b) => a.ts - b.ts);
  const nodes = events
    .filter(({ cat, name }) => cat === "Node" && name.endsWith("_kernel_time"))
    .sort((a, b) => a.ts - b.ts);
  let next = 0;
  return spans.map(({ ts, dur }) => {
    const run: Run = { milliseconds: dur / 1000, rows: 0, operators: new Map() };
    for (; next < nodes.length && (nodes[next] as ProfileEvent).ts <= ts + dur; next++) {
      const event = nodes[next] as ProfileEvent;
      if (event.ts < ts) continue;
      const key = label(event, options);
      const sum = run.operators.get(key) ?? { milliseconds: 0, nodes: 0 };
      run.operators.set(key, { milliseconds: sum.milliseconds + event.dur / 1000, nodes: sum.nodes + 1 });
      if (isProduct(event.args?.op_name ?? "")) run.rows = Math.max(run.rows, rowsOf(event));
    }
    return run;
  });
}

function middle(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
}

function summarizeGroup(rows: number, runs: readonly Run[]): RunGroup {
  const names = [...new Set(runs.flatMap(({ operators }) => [...operators.keys()]))];
  const operators = names.map((operator) => ({
    operator,
    milliseconds: middle(runs.map((run) => run.operators.get(operator)?.milliseconds ?? 0)),
    nodes: middle(runs.map((run) => run.operators.get(operator)?.nodes ?? 0)),
  }));
  const kernels = runs.map((run) =>
    [...run.operators.values()].reduce((sum, { milliseconds }) => sum + milliseconds, 0),
  );
  return {
    rows,
    runs: runs.length,
    runMilliseconds: middle(runs.map(({ milliseconds }) => milliseconds)),
    kernelMilliseconds: middle(kernels),
    operators: operators.sort((a, b) => b.milliseconds - a.milliseconds),
  };
}

/** Groups the runs of a profile file by their size; within a group every figure is the median over its runs. */
export function summarizeProfile(path: string, options: SummaryOptions = {}): RunGroup[] {
  const runs = splitIntoRuns(JSON.parse(readFileSync(path, "utf8")) as ProfileEvent[], options);
  const sizes = [...new Set(runs.map(({ rows }) => rows))].sort((a, b) => b - a);
  return sizes.map((rows) =>
    summarizeGroup(
      rows,
      runs.filter((run) => run.rows === rows),
    ),
  );
}

/** The groups as text, slowest operator first. */
export function formatProfile(groups: readonly RunGroup[]): string {
  return groups
    .map(({ rows, runs, runMilliseconds, kernelMilliseconds, operators }) => {
      const head =
        `${runs} runs of ${rows} rows: ${runMilliseconds.toFixed(2)} ms a run, ` +
        `${kernelMilliseconds.toFixed(2)} ms of it in operators`;
      const lines = operators.map(({ operator, milliseconds, nodes }) => {
        const share = ((100 * milliseconds) / kernelMilliseconds).toFixed(1).padStart(5);
        return `  ${milliseconds.toFixed(3).padStart(9)} ms ${share} %  ${String(nodes).padStart(4)} x ${operator}`;
      });
      return [head, ...lines].join("\n");
    })
    .join("\n\n");
}
