/** @file Tables for methods that take a share of the cache away: what is left of it, and who reads better with the rest. */
import { formatBytes } from "../../format/sizes.js";
import { formatShare, labelOf } from "../report/wording.js";
import type { EvaluationResult, MethodResult, ResultPoint } from "../result.js";
import { cell, NOTHING, table } from "./table.js";

/** What is left of the cache and, for perplexity, how sentinel tokens compare with the other methods. */
export function shareTables(result: EvaluationResult): string[] {
  const sizes = sizeTable(result);
  return result.evaluation === "sentinel" ? [sizes, ...differenceTable(result), ...savedTable(result)] : [sizes];
}

/** A row for a method: a cell for each share. */
function row(label: string, { points }: MethodResult, cellOf: (point: ResultPoint) => string): string[] {
  return [label, ...points.map(cellOf)];
}

function headings(first: string, { methods }: EvaluationResult): string[] {
  return [first, ...(methods[0]?.points ?? []).map(({ step }) => `${step}%`)];
}

function sizeTable(result: EvaluationResult): string {
  const { methods } = result;
  const tokens = methods[0]?.points[0]?.memory.contextTokens ?? 0;
  const rows = methods
    .filter(({ controlOf }) => controlOf === undefined)
    .map((method) =>
      row(method.label, method, ({ memory: { slots, bytes, peakSlots, seenSlots } }) => {
        const seen = seenSlots === undefined ? "" : `; ${Math.round(seenSlots)} seen`;
        return `${Math.round(slots)} (${formatBytes(bytes)}), at most ${peakSlots}${seen}`;
      }),
    );
  const isCounted = methods.some(({ points }) => points.some(({ memory }) => memory.seenSlots !== undefined));
  const seen = isCounted ? ", and how many a token sees on average" : "";
  const about = `**KV slots left** of ${Math.round(tokens)} tokens and their bytes (a span that is still open not counted), the most held at any moment${seen}, by share taken away`;
  return `${about}\n\n${table(headings("method", result), rows)}`;
}

/** Sentinel tokens minus each other method, block by block. */
function differenceTable(result: EvaluationResult): string[] {
  const { methods } = result;
  const rows = methods
    .filter(({ method }) => method === "sentinel")
    .flatMap((own) =>
      methods
        .filter((other) => other !== own)
        .map((other) =>
          row(`${labelOf(own)} − ${labelOf(other)}`, own, ({ differences }) =>
            cell("perplexity", differences[other.label]?.perplexity),
          ),
        ),
    );
  if (rows.length === 0) return [];
  return [
    `**Differences of perplexity**, paired by block; 95% intervals\n\n${table(headings("difference", result), rows)}`,
  ];
}

/** Whether local attention loses anything against full attention beyond chance, for each share. */
function localLoses({ methods }: EvaluationResult): boolean[] {
  const local = methods.find(({ method, controlOf }) => method === "local" && controlOf === undefined);
  const full = methods.find(({ method, controlOf }) => method === "full" && controlOf === undefined);
  return (local?.points ?? []).map(({ differences }) => {
    const loss = differences[full?.label ?? ""]?.perplexity;
    return loss !== undefined && loss.low > 0;
  });
}

/** How much of what local attention loses against full attention the others save, where it does lose. */
function savedTable(result: EvaluationResult): string[] {
  const loses = localLoses(result);
  const others = result.methods.filter(({ method }) => method !== "full" && method !== "local");
  const rows = others.map((method) =>
    row(labelOf(method), method, (point) => {
      const { perplexity } = point.gapClosed;
      return perplexity === undefined || loses[method.points.indexOf(point)] !== true
        ? NOTHING
        : formatShare(perplexity);
    }),
  );
  if (rows.every((cells) => cells.slice(1).every((text) => text === NOTHING))) return [];
  const about =
    "**Share of local attention's loss that is saved**, where it loses anything beyond chance: 0% is as bad as local " +
    "attention, 100% as good as full attention";
  return [`${about}\n\n${table(headings("method", result), rows)}`];
}
