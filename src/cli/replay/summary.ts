/** @file What a replay came to, as data and as text. */
import { relative } from "node:path";
import { styleOf } from "../style.js";
import { formatBytes } from "../../format/sizes.js";
import { formatTable } from "../table.js";
import { formatPerplexity } from "../units.js";
import { perplexityOf, type Contestant } from "./contestant.js";
import type { Conversation, Question } from "./conversation.js";

/** One memory at the end of a replay. */
export interface ContestantSummary {
  label: string;
  method: string;
  options: Readonly<Record<string, unknown>>;
  adapter: string | null;
  /** Answers that it could score, and their perplexity. */
  scoredAnswers: number;
  perplexity: number | null;
  /** Perplexity of the answers that every memory could score. */
  commonPerplexity: number | null;
  slots: number;
  bytes: number;
  peakBytes: number;
  overflowTurn: number | null;
  /** Answers to the questions, in order; null beyond the context limit. */
  answers: (string | null)[];
}

/** What `precis replay --json` prints. */
export interface ReplaySummary {
  model: string;
  contextLimit: number;
  title: string;
  turns: number;
  tokens: number;
  /** Answers that every memory could score. */
  commonAnswers: number;
  questions: readonly Question[];
  memories: ContestantSummary[];
}

/** Sums up the contestants; `answers` holds a list per contestant. */
export function summarize(
  model: { directory: string; maxPositions: number },
  { title, messages, questions }: Conversation,
  contestants: readonly Contestant[],
  answers: readonly (string | undefined)[][],
): ReplaySummary {
  const commonAnswers = Math.min(...contestants.map(({ scores }) => scores.length));
  return {
    model: model.directory,
    contextLimit: model.maxPositions,
    title,
    turns: messages.length,
    tokens: Math.max(...contestants.map(({ stats }) => stats.tokensSeen)),
    commonAnswers,
    questions,
    memories: contestants.map(({ label, memory, scores, stats, peakBytes, overflowTurn }, index) => ({
      label,
      method: memory.method,
      options: memory.options,
      adapter: memory.adapter?.directory ?? null,
      scoredAnswers: scores.length,
      perplexity: perplexityOf(scores) ?? null,
      commonPerplexity: perplexityOf(scores.slice(0, commonAnswers)) ?? null,
      slots: stats.slots,
      bytes: stats.bytes,
      peakBytes,
      overflowTurn: overflowTurn ?? null,
      answers: (answers[index] ?? []).map((answer) => answer ?? null),
    })),
  };
}

/** The summary for people. */
export function describeSummary(summary: ReplaySummary): string {
  const { bold } = styleOf(process.stdout);
  return [
    bold("Summary"),
    describeTable(summary),
    describeReading(summary),
    ...summary.questions.map((question, index) => describeAnswers(summary, question, index)),
  ].join("\n\n");
}

function describeTable({ memories, commonAnswers }: ReplaySummary): string {
  const rows = memories.map((memory) => ({
    memory: memory.label,
    common: formatPerplexity(memory.commonPerplexity ?? undefined),
    all: memory.overflowTurn === null ? formatPerplexity(memory.perplexity ?? undefined) : "–",
    bytes: formatBytes(memory.bytes),
    peak: formatBytes(memory.peakBytes),
    note: memory.overflowTurn === null ? "" : `context limit reached at turn ${memory.overflowTurn}`,
  }));
  const most = Math.max(...memories.map(({ scoredAnswers }) => scoredAnswers));
  return formatTable(rows, [
    "memory",
    {
      key: "common",
      heading: `ppl, ${most === commonAnswers ? "all" : "first"} ${commonAnswers} answers`,
      align: "right",
    },
    ...(most === commonAnswers ? [] : [{ key: "all", heading: `ppl, all ${most}`, align: "right" } as const]),
    { key: "bytes", heading: "KV at the end", align: "right" },
    { key: "peak", heading: "KV at most", align: "right" },
    { key: "note", heading: "" },
  ]);
}

/** What the table shows, in words, so that nobody has to know what perplexity is. */
function describeReading({ memories, contextLimit, tokens }: ReplaySummary): string {
  const lines = ["Perplexity (ppl) says how surprising the real answers were, given the memory: lower is better."];
  const full = memories.find(({ method }) => method === "full");
  if (full?.overflowTurn) {
    lines.push(
      `The conversation has ${tokens} tokens and the model takes ${contextLimit}: the full cache ends at turn ` +
        `${full.overflowTurn}, the others go on.`,
    );
  }
  if (memories.every(({ adapter }) => adapter === null)) {
    lines.push(
      "No trained compression adapter is installed, so only training-free methods run. They forget what leaves their window.",
    );
  }
  return lines.join("\n");
}

function describeAnswers({ memories }: ReplaySummary, { ask, expect, said }: Question, index: number): string {
  const { bold, dim } = styleOf(process.stdout);
  const hints = [
    expect === undefined ? undefined : `right: ${expect}`,
    said === undefined ? undefined : `said ${said}`,
  ];
  const hint = hints.filter((part) => part !== undefined).join(", ");
  const width = Math.max(...memories.map(({ label }) => label.length));
  const lines = memories.map(({ label, answers }) => {
    return `  ${label.padEnd(width)}  ${answers[index] ?? dim("cannot answer: no room left in the context")}`;
  });
  return [`${bold(`“${ask}”`)}${hint === "" ? "" : dim(`  (${hint})`)}`, ...lines].join("\n");
}

/** Commands worth running next. @param example a conversation to use in them */
export function describeNextSteps(example: string): string {
  const { bold, dim } = styleOf(process.stdout);
  const file = relative(process.cwd(), example) || example;
  // Inside a checkout there is no `precis` on the path, but npm finds the script of that name.
  const starter = process.env.npm_lifecycle_event;
  const precis = starter === undefined ? "precis" : starter === "npx" ? "npx precis" : "npm run -s precis --";
  const steps = [
    [`${precis} chat`, "talk yourself; /memory, /fork and /save work there"],
    [`${precis} replay ${file} --window 32`, "the same with a quarter of the memory"],
    [`${precis} inspect --method streaming --steps ${file}`, "what is held after every step"],
    [`${precis} methods`, "all methods and their options"],
  ] as const;
  const width = Math.max(...steps.map(([command]) => command.length));
  return [bold("What to try next"), ...steps.map(([command, why]) => `  ${command.padEnd(width)}  ${dim(why)}`)].join(
    "\n",
  );
}
