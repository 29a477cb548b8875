/** @file What serving a session costs, as measured, and between the measured points. */
import { readFileSync } from "node:fs";

/** Snapshots in the order of their size. */
export const PRECISIONS = ["fp32", "fp16", "int8", "int4"] as const;

/** How a snapshot is written. */
export type Precision = (typeof PRECISIONS)[number];

/** A memory after some messages. */
export interface CostPoint {
  messages: number;
  tokens: number;
  slots: number;
  /** Keys and values in the engine. */
  bytes: number;
  /** Bytes of a snapshot. */
  snapshots: Readonly<Record<Precision, number>>;
  /** Milliseconds of taking a snapshot in fp16 and writing it to the store. */
  saveMs: number;
  /** Milliseconds of reading it from the store and restoring it. */
  restoreMs: number;
}

/** Costs of one memory method. */
export interface MethodCosts {
  method: string;
  /** In the order of their tokens. */
  points: readonly CostPoint[];
  /** Tokens of prompts that are read a second. */
  promptRate: number;
  /** Tokens that are written a second, all answers of a batch together. */
  answerRate: number;
  /** Milliseconds per answer for taking it into the memory, beside reading and writing. */
  commitMs: number;
}

/** All measured costs. */
export interface Costs {
  model: string;
  dtype: string;
  cores: number;
  store: string;
  /** Answers that were written at once. */
  batch: number;
  /** Tokens of a whole history that a full cache reads a second, at once. */
  rereadRate: number;
  /** Bytes of a session's record without earlier states. */
  recordBytes: number;
  /** Bytes that each earlier state adds to it. */
  stateBytes: number;
  methods: readonly MethodCosts[];
}

/** Reads measured costs. */
export function readCosts(file: string | URL): Costs {
  return JSON.parse(readFileSync(file, "utf8")) as Costs;
}

/** The costs of a method. @throws RangeError for one that was not measured */
export function costsOf({ methods }: Costs, name: string): MethodCosts {
  const found = methods.find(({ method }) => method === name);
  if (found === undefined) throw new RangeError(`The costs of ${name} were not measured.`);
  return found;
}

/** Slots may vary by this much between two points without the memory growing. */
const STEADY = 1.05;

/**
 * A size of a memory that has seen so many tokens: linear between the measured points. Beyond the last one it goes on as
 * between the last two, unless the memory had stopped growing there.
 */
export function sizeAt({ points }: MethodCosts, tokens: number, size: (point: CostPoint) => number): number {
  const [first] = points as [CostPoint];
  if (tokens <= first.tokens) return size(first);
  const at = points.findIndex((point) => point.tokens >= tokens);
  const upper = at === -1 ? points.length - 1 : at;
  const [low, high] = [points[upper - 1] as CostPoint, points[upper] as CostPoint];
  if (at === -1 && high.slots <= STEADY * low.slots) return size(high);
  const slope = (size(high) - size(low)) / (high.tokens - low.tokens);
  return size(low) + slope * (tokens - low.tokens);
}

/**
 * A time for a memory of so many bytes. Times go with bytes, and the median over all points of milliseconds per byte is
 * what other work on the machine disturbs least.
 */
export function timeFor({ points }: MethodCosts, bytes: number, time: "saveMs" | "restoreMs"): number {
  const rates = points.map((point) => point[time] / point.bytes).sort((a, b) => a - b);
  const middle = (rates.length - 1) / 2;
  return (bytes * ((rates[Math.floor(middle)] as number) + (rates[Math.ceil(middle)] as number))) / 2;
}
