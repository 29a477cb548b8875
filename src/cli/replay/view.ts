/** @file Shows a replay while it runs: a table that is drawn over on a terminal, a line per answer otherwise. */
import type { ChatMessage } from "../../text/chat-template.js";
import { LineTable } from "../line-table.js";
import { styleOf } from "../style.js";
import { formatBytes } from "../../format/sizes.js";
import { formatPerplexity } from "../units.js";
import { perplexityOf, type Contestant } from "./contestant.js";

/** The place in the conversation. */
export interface ReplayTurn {
  turn: number;
  turns: number;
  message: ChatMessage;
}

/** Something that shows a replay. */
export interface ReplayView {
  /** Shows what the memories hold after a turn. */
  show: (turn: ReplayTurn, contestants: readonly Contestant[]) => void;
}

/** Shows nothing. */
export const SILENT_VIEW: ReplayView = { show: () => undefined };

/** Perplexity of the latest answer. */
function latest({ scores, overflowTurn }: Contestant): string {
  return overflowTurn === undefined ? formatPerplexity(perplexityOf(scores.slice(-1))) : "–";
}

/** Columns that a terminal needs for {@link LiveView}, whose lines must not wrap. */
export const LIVE_COLUMNS: number = 80;

/** Draws one table over and over. */
export class LiveView implements ReplayView {
  #drawnLines = 0;

  show({ turn, turns, message }: ReplayTurn, contestants: readonly Contestant[]): void {
    const { dim, bold, alert } = styleOf(process.stdout);
    const width = (process.stdout.columns || 80) - 1;
    const speech = `${message.role}: ${message.content}`.replaceAll(/\s+/g, " ").slice(0, Math.max(20, width - 16));
    const table = new LineTable([
      { heading: "memory", width: Math.max(...contestants.map(({ label }) => label.length)), align: "left" },
      { heading: "slots", width: 6 },
      { heading: "size", width: 8 },
      { heading: "perplexity", width: 10 },
      { heading: "so far", width: 7 },
    ]);
    const rows = contestants.map((contestant) => {
      const { label, stats, scores, overflowTurn } = contestant;
      const cells = [String(stats.slots), formatBytes(stats.bytes)];
      const row = table.row([label, ...cells, latest(contestant), formatPerplexity(perplexityOf(scores))]);
      return overflowTurn === undefined ? row : `${dim(row)}  ${alert(`full at turn ${overflowTurn}`)}`;
    });
    const lines = [`${bold(`turn ${turn} of ${turns}`)}  ${dim(speech)}`, "", dim(table.heading()), ...rows];
    const back = this.#drawnLines === 0 ? "" : `\u001B[${this.#drawnLines}A`;
    // One write, so that the terminal never shows half a table.
    process.stdout.write(back + lines.map((line) => `\u001B[2K${line}\n`).join(""));
    this.#drawnLines = lines.length;
  }
}

/** Prints a line per answer, and one when a memory reaches the context limit. */
export class LineView implements ReplayView {
  #table: LineTable | undefined;
  readonly #overflown = new Set<Contestant>();

  show({ turn, message }: ReplayTurn, contestants: readonly Contestant[]): void {
    this.#table ??= this.#begin(contestants);
    for (const contestant of contestants) {
      if (contestant.overflowTurn === undefined || this.#overflown.has(contestant)) continue;
      this.#overflown.add(contestant);
      process.stdout.write(`${contestant.label}: context limit reached at turn ${contestant.overflowTurn}\n`);
    }
    if (message.role !== "assistant") return;
    const cells = contestants.flatMap((contestant) => {
      const { slots, bytes } = contestant.stats;
      return [String(slots), formatBytes(bytes), latest(contestant)];
    });
    process.stdout.write(`${this.#table.row([String(turn), ...cells])}\n`);
  }

  /** Prints the headings: the labels over their three columns each. */
  #begin(contestants: readonly Contestant[]): LineTable {
    const groups = contestants.map(({ label }) => {
      const width = Math.max(24, label.length);
      return { label, columns: [width - 19, 8, 7].map((column) => Math.max(5, column)) };
    });
    const labels = groups.map(({ label, columns }) =>
      label.padStart(columns.reduce((sum, width) => sum + width + 2, -2)),
    );
    const headings = ["slots", "size", "ppl"];
    const table = new LineTable([
      { heading: "turn", width: 4 },
      ...groups.flatMap(({ columns }) => columns.map((width, i) => ({ heading: headings[i] as string, width }))),
    ]);
    process.stdout.write(`${["    ", ...labels].join("  ")}\n${table.heading()}\n`);
    return table;
  }
}
