/** @file The generated part of the results page for one setting: tables with intervals, plots, and what was measured. */
import { formatBytes, formatRatio } from "../../format/sizes.js";
import { METRICS, type Metric } from "../metrics.js";
import { chartsOf } from "../report/charts.js";
import { formatShare, labelOf, ABOUT } from "../report/wording.js";
import type { EvaluationResult, MethodResult, ResultPoint } from "../result.js";
import { pairs, verdict } from "./pairs.js";
import { shareTables } from "./shares.js";
import type { StoredResult } from "./stored.js";
import { cell, NOTHING, table } from "./table.js";

/**
 * The Markdown of a setting.
 * @param plots folder of the plots as seen from the page
 */
export function settingMarkdown({ setting, result, adapters }: StoredResult, plots: string): string {
  const { evaluation, seed, model, sources, methods } = result;
  const present = Object.values(METRICS).filter(({ name }) =>
    methods.some(({ points }) => points.some((point) => point.metrics[name] !== undefined)),
  );
  const isPrimary = ({ name }: Metric): boolean => name === result.primary;
  const measured = [...present.filter(isPrimary), ...present.filter((metric) => !isPrimary(metric))];
  const byStep = measured.map((metric) => stepTable(result, metric));
  const compared = comparisons(result, measured);
  const images = chartsOf(result).map(({ name, chart }) => `![${chart.title}](${plots}/${setting.name}-${name}.svg)`);
  const counts = Object.entries(sources).map(([name, count]) => `${name} ${count}`);
  const digests = Object.entries(adapters).map(([label, digest]) => `${label} \`${digest.slice(0, 8)}\``);
  const hours = methods.reduce((sum, { seconds }) => sum + seconds, 0) / 3600;
  const asked = Math.max(...methods.flatMap(({ points }) => points.map(({ questions }) => questions)));
  const cases = Object.values(sources).reduce((sum, count) => sum + count, 0);
  const questions = asked > cases ? `; ${asked.toLocaleString("en")} questions` : "";
  const notes = [
    `Cases: ${counts.join(", ")}${questions}; seed ${seed}. Model \`${model.directory}\` (${model.dtype}, \`${model.fingerprint.slice(0, 8)}\`).`,
    ...(digests.length > 0 ? [`Adapters: ${digests.join(", ")}.`] : []),
    `${hours.toFixed(2)} hours of work, of all workers together. Every number, source by source and pair by pair: [${setting.name}.json](${plots}/${setting.name}.json).`,
  ];
  const command = `\`\`\`sh\nnpm run results -- ${setting.name} --data DATA\n\`\`\``;
  return [ABOUT[evaluation].text, ...byStep, ...compared, ...images, notes.join(" "), command].join("\n\n");
}

/** What is said beside quality by time step: what memories hold, and how methods differ. */
function comparisons(result: EvaluationResult, measured: readonly Metric[]): string[] {
  switch (result.evaluation) {
    case "streaming":
      return [...streamSizes(result), ...pairTable(result)];
    case "sentinel":
    case "sentinel-generation":
      return shareTables(result);
    default:
      return measured.map((metric) => lastTable(result, metric));
  }
}

/** Quality at every time step, with intervals. */
function stepTable({ evaluation, methods }: EvaluationResult, metric: Metric): string {
  const steps = [...new Set(methods.flatMap(({ points }) => points.map(({ step }) => step)))].sort((a, b) => a - b);
  const heading = `**${capital(metric.label)}** (${metric.better} is better) by ${ABOUT[evaluation].step}; 95% intervals`;
  const rows = methods.flatMap((method) => {
    const found = steps.map((step) => method.points.find((point) => point.step === step)?.metrics[metric.name]);
    if (found.every((estimate) => estimate === undefined)) return [];
    return [[labelOf(method), ...found.map((estimate) => cell(metric.name, estimate))]];
  });
  return `${heading}\n\n${table(["method", ...steps.map((step) => step.toLocaleString("en"))], rows)}`;
}

/** Quality at the last time step beside what it costs, and beside the same memory of another sample. */
function lastTable({ evaluation, methods }: EvaluationResult, metric: Metric): string {
  const { name } = metric;
  const last = Math.max(...methods.flatMap(({ points }) => points.map(({ step }) => step)));
  const at = (method: MethodResult | undefined): ResultPoint | undefined =>
    method?.points.find(({ step, metrics }) => step === last && metrics[name] !== undefined);
  const known = hasGap(methods, last, metric);
  const rows = methods.flatMap((method) => {
    const point = at(method);
    if (point === undefined || method.controlOf !== undefined) return [];
    const control = methods.find(({ controlOf }) => controlOf === method.label);
    const other = at(control)?.metrics[name];
    const gap = point.gapClosed[name];
    const gained = control === undefined ? undefined : point.differences[control.label]?.[name];
    const { memory } = point;
    return [
      [
        method.label,
        cell(name, point.metrics[name]),
        cell(name, other),
        cell(name, gained),
        ...(known ? [gap === undefined || isBound(method) ? NOTHING : formatShare(gap)] : []),
        String(Math.round(memory.slots)),
        formatBytes(memory.bytes),
        memory.bytes === 0 ? NOTHING : formatRatio(memory.fullBytes / memory.bytes),
        String(memory.peakSlots),
      ],
    ];
  });
  const headings = [
    "method",
    metric.label,
    "with another sample's memory",
    "difference",
    ...(known ? ["gap closed"] : []),
    "context KV slots",
    "bytes",
    "against the full cache",
    "most KV slots ever",
  ];
  const gapNote = known
    ? "Gap closed: the share of the way from no context to full context, case by case"
    : `Full context is not better than none beyond chance by ${metric.label}, so there is no gap to close`;
  return `At ${last} ${ABOUT[evaluation].step}. ${gapNote}.\n\n${table(headings, rows)}`;
}

function isBound({ method, shuffled }: MethodResult): boolean {
  return !shuffled && (method === "none" || method === "full");
}

/** Whether full context is better than none by more than chance: only then do shares of that gap mean anything. */
function hasGap(methods: readonly MethodResult[], step: number, { name, better }: Metric): boolean {
  const full = methods.find(({ method, shuffled }) => method === "full" && !shuffled);
  const none = methods.find(({ method, shuffled }) => method === "none" && !shuffled);
  const point = full?.points.find((candidate) => candidate.step === step);
  const paired = none === undefined ? undefined : point?.differences[none.label]?.[name];
  return paired !== undefined && (better === "lower" ? paired.high < 0 : paired.low > 0);
}

/** What memories of a stream hold. */
function streamSizes({ methods }: EvaluationResult): string[] {
  const rows = methods.flatMap(({ label, points }) => {
    const point = points.at(-1);
    if (point === undefined) return [];
    const { memory } = point;
    const ratio = memory.peakBytes === 0 ? NOTHING : formatRatio(memory.fullBytes / memory.peakBytes);
    return [[label, String(memory.peakSlots), formatBytes(memory.peakBytes), ratio]];
  });
  const peaks = new Set(rows.map(([, peak]) => peak));
  const budget =
    peaks.size === 1
      ? `Every method holds at most ${[...peaks].join()} KV slots at any moment, as measured while reading.`
      : "The methods do not hold equally many KV slots.";
  const headings = ["method", "most KV slots ever", "bytes", "full cache of the longest, against that"];
  return [`${budget}\n\n${table(headings, rows)}`];
}

/** Which method reads streams better, at every length and on every stretch. */
function pairTable({ methods }: EvaluationResult): string[] {
  const found = pairs(methods);
  if (found.length === 0) return [];
  const steps = methods[0]?.points.map(({ step }) => step) ?? [];
  const rows = found.map(({ first, second, points }) => [
    `${first.label} − ${second.label}`,
    ...points.map((estimate) => cell("perplexity", estimate)),
  ]);
  const headings = ["difference of perplexity", ...steps.map((step) => step.toLocaleString("en"))];
  const verdicts = found.map((pair) => `- ${verdict(pair)}`);
  return [
    `Differences from the start to each length, paired by passage:\n\n${table(headings, rows)}`,
    verdicts.join("\n"),
  ];
}

function capital(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
