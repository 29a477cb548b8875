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
    /** Execution provider of a node. */
    provider?: string;
    /** Each input or output as `{ "<element type>": [sizes] }`. */
    input_type_shape?: Record<string, number[]>[];
    output_type_shape?: Record<string, number[]>[];
    /** Sizes of a device kernel's inputs and outputs. */
    shapes?: string;
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
  // Nodes that fell back to the CPU stand out among those of a device; alone, the CPU needs no mention.
  const place = event.args?.provider?.replace("ExecutionProvider", "") ?? "CPU";
  const name = place === "CPU" ? operator : `${operator} (${place})`;
  if (!byShape || !isProduct(operator)) return name;
  const [input = []] = shapesOf(event.args?.input_type_shape);
  const [output = []] = shapesOf(event.args?.output_type_shape);
  return `${name} ${input.join("x")} to ${output.join("x")}`;
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

function readEvents(path: string): ProfileEvent[] {
  return JSON.parse(readFileSync(path, "utf8")) as ProfileEvent[];
}

/** Groups the runs of a profile file by their size; within a group every figure is the median over its runs. */
export function summarizeProfile(path: string, options: SummaryOptions = {}): RunGroup[] {
  const runs = splitIntoRuns(readEvents(path), options);
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

/** Time that a device spent in one kind of kernel, a run. */
export interface KernelTime {
  /** Operator and shader program. */
  kernel: string;
  milliseconds: number;
  /** Launches a run. */
  launches: number;
}

/** Time on a device, from its own clock; means over all runs, since its clock says nothing of where a run begins. */
export interface DeviceSummary {
  runs: number;
  milliseconds: number;
  kernels: KernelTime[];
}

/** An event of a device is named "node&operator&program". */
function kernelLabel(event: ProfileEvent, { byShape = false }: SummaryOptions): string {
  const [, ...kernel] = event.name.split("&");
  const name = kernel.length === 0 ? event.name : [...new Set(kernel)].join(" / ");
  return byShape && event.args?.shapes !== undefined ? `${name} ${event.args.shapes.trim()}` : name;
}

/** The kernels that a device timed itself; undefined where the profile has none, as on the CPU. */
export function summarizeDevice(path: string, options: SummaryOptions = {}): DeviceSummary | undefined {
  const events = readEvents(path);
  const launches = events.filter(({ cat }) => cat === "Api" || cat === "Kernel");
  const runs = events.filter(({ name }) => name === "model_run").length;
  if (launches.length === 0 || runs === 0) return undefined;
  const kernels = new Map<string, KernelTime>();
  for (const event of launches) {
    const kernel = kernelLabel(event, options);
    const known = kernels.get(kernel) ?? { kernel, milliseconds: 0, launches: 0 };
    const milliseconds = known.milliseconds + event.dur / 1000 / runs;
    kernels.set(kernel, { kernel, milliseconds, launches: known.launches + 1 / runs });
  }
  const sorted = [...kernels.values()].sort((a, b) => b.milliseconds - a.milliseconds);
  return { runs, milliseconds: sorted.reduce((sum, { milliseconds }) => sum + milliseconds, 0), kernels: sorted };
}

/** The kernels as text, slowest first, as far as they matter. */
export function formatDevice({ runs, milliseconds, kernels }: DeviceSummary, most = 40): string {
  const lines = kernels.slice(0, most).map(({ kernel, milliseconds: time, launches }) => {
    const share = ((100 * time) / milliseconds).toFixed(1).padStart(5);
    return `  ${time.toFixed(3).padStart(9)} ms ${share} %  ${launches.toFixed(0).padStart(4)} x ${kernel}`;
  });
  const rest = kernels.length > most ? [`  and ${kernels.length - most} more kinds`] : [];
  return [`${runs} runs: ${milliseconds.toFixed(2)} ms of kernels on the device a run`, ...lines, ...rest].join("\n");
}
