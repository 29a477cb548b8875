/** @file What the chat says about its memory. */
import type { Memory } from "../../memory/memory.js";
import type { LanguageModel } from "../../runtime/model.js";
import { describeMethod } from "../model-options.js";
import { formatBytes } from "../../format/sizes.js";
import { formatTable } from "../table.js";
import { formatCount, formatSaving } from "../units.js";
import type { TurnResult } from "./chat.js";

/** `memory 24 slots · 393 kB │ full cache 412 tokens · 6.75 MB │ 17× smaller │ 43 tok/s`. */
export function describeTurn({ stats, tokensPerSecond, stopped }: TurnResult): string {
  const { slots, bytes, tokensSeen, fullCacheBytes, ratio } = stats;
  const parts = [
    `memory ${formatCount(slots, "slot")} · ${formatBytes(bytes)}`,
    `full cache ${formatCount(tokensSeen, "token")} · ${formatBytes(fullCacheBytes)}`,
    formatSaving(ratio),
  ];
  if (tokensPerSecond !== undefined) parts.push(`${Math.round(tokensPerSecond)} tok/s`);
  if (stopped) parts.push("stopped");
  return parts.join(" │ ");
}

/** Method, counts and positions, and a table of the slots by kind. */
export async function describeMemory(model: LanguageModel, memory: Memory): Promise<string> {
  const [stats, { kinds }] = await Promise.all([memory.stats(), memory.rows()]);
  const rows = [...new Set(kinds)].map((kind) => {
    const slots = kinds.filter((other) => other === kind).length;
    return { kind, slots, size: formatBytes(slots * model.info.bytesPerSlot) };
  });
  const facts: [string, string][] = [
    ["method", describeMethod(memory.method, memory.options)],
    ["adapter", memory.adapter?.directory ?? "none"],
    ["seen", `${formatCount(stats.tokensSeen, "token")} in ${formatCount(stats.steps, "step")}`],
    ["position", `${stats.position} of ${model.info.maxPositions} that the model was made for`],
    ["held", `${formatCount(stats.slots, "slot")} · ${formatBytes(stats.bytes)} · ${formatSaving(stats.ratio)}`],
  ];
  const lines = facts.map(([name, value]) => `${name.padEnd(10)}${value}`);
  if (rows.length > 0) lines.push("", formatTable(rows, ["kind", "slots", { key: "size", align: "right" }]));
  return lines.join("\n");
}
