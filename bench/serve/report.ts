/** @file The result as text: a row per budget and method, medians over rounds. */
import type * as TableModule from "../../dist/cli/table.js";
import type * as SizesModule from "../../dist/format/sizes.js";
import { built } from "../library.js";
import { median, ratioOf, type Ratio } from "../measure.js";
import type { BudgetRates, MethodResult, ServeSettings } from "./measure.js";

/** Everything about one run. */
export interface ServeReport {
  machine: Record<string, string | number>;
  settings: ServeSettings & Record<string, unknown>;
  /** Share of all cores that other programs used meanwhile. */
  others: number;
  /** The full context comes first. */
  methods: MethodResult[];
}

/** Throughput of a method against the full context at the same budget; undefined where one of them fits no sample. */
export function ratioAt(budget: number, { together }: MethodResult, full: MethodResult): Ratio | undefined {
  const [ours, theirs] = [together[budget], full.together[budget]] as [BudgetRates, BudgetRates];
  return ours.batch === 0 || theirs.batch === 0 ? undefined : ratioOf(ours.rates, theirs.rates);
}

/** The same by processor time: how many samples a method answers with what one takes with the full context. */
export function cpuRatioAt(budget: number, { together }: MethodResult, full: MethodResult): Ratio | undefined {
  const [ours, theirs] = [together[budget], full.together[budget]] as [BudgetRates, BudgetRates];
  return ours.batch === 0 || theirs.batch === 0 ? undefined : ratioOf(theirs.cpuMs, ours.cpuMs);
}

function formatRatio(ratio: Ratio | undefined): string {
  if (ratio === undefined) return "–";
  return `${ratio.median.toFixed(2)}x (${ratio.lowest.toFixed(2)} to ${ratio.highest.toFixed(2)})`;
}

function formatBatch({ batch, capped }: BudgetRates): string {
  return capped ? `${batch} (cap)` : String(batch);
}

/** The report as a table, and how busy the machine was. */
export async function formatReport({ settings, others, methods }: ServeReport): Promise<string> {
  const { formatTable } = await built<typeof TableModule>("cli/table.js");
  const { formatBytes } = await built<typeof SizesModule>("format/sizes.js");
  const [full] = methods as [MethodResult, ...MethodResult[]];
  const rows = settings.budgets.flatMap((budgetBytes, budget) =>
    methods.map((result) => {
      const limit = result.together[budget] as BudgetRates;
      return {
        budget: formatBytes(budgetBytes),
        method: result.method,
        slots: result.contextSlots,
        bytes: formatBytes(result.sampleBytes),
        batch: formatBatch(limit),
        alone: median(result.alone).toFixed(1),
        together: limit.batch === 0 ? "–" : median(limit.rates).toFixed(1),
        ratio: formatRatio(ratioAt(budget, result, full)),
        cpu: limit.batch === 0 ? "–" : median(limit.cpuMs).toFixed(0),
        cpuRatio: formatRatio(cpuRatioAt(budget, result, full)),
      };
    }),
  );
  const right = { align: "right" } as const;
  const table = formatTable(rows, [
    "budget",
    "method",
    { key: "slots", heading: "context KV" },
    { key: "bytes", heading: "KV per sample", ...right },
    { key: "batch", heading: "max batch", ...right },
    { key: "alone", heading: "samples/s at 1", ...right },
    { key: "together", heading: "at max batch", ...right },
    { key: "ratio", heading: "against full", ...right },
    { key: "cpu", heading: "CPU ms/sample", ...right },
    { key: "cpuRatio", heading: "by CPU", ...right },
  ]);
  const reading = methods
    .map((result) => `${(100 * median(result.reading)).toFixed(0)} % (${result.method})`)
    .join(", ");
  return `${table}\nAt 1, reading the question took ${reading} of the time.\nOther programs used ${(100 * others).toFixed(0)} % of the processors.`;
}
