/** @file What a memory method is: options, and what it does with the cache as tokens come in and steps end. */
import { PrecisError } from "../errors.js";
import type { Span } from "../sentinel/sentinel-tokens.js";
import type { MemorySession } from "./session.js";

/** A value that a method option may take. */
export type OptionValue = number | boolean | string;

/** One option of a method. */
export interface OptionSpec {
  /** The default; its type is the option's type. */
  readonly default: OptionValue;
  readonly description: string;
  /** Smallest allowed number. */
  readonly min?: number;
  /** Largest allowed number. */
  readonly max?: number;
  /** Whether only whole numbers are allowed; default true. */
  readonly integer?: boolean;
  /** Allowed strings. */
  readonly choices?: readonly string[];
}

/** Options by name. */
export type OptionValues = Readonly<Record<string, OptionValue>>;

/** Why tokens are being fed: as context that a step will hold, or as the input that is to be answered. */
export type FeedPurpose = "context" | "input";

/** Whether new token `query` may attend to `key`, which counts the cached slots first and then the new tokens. */
export type Visibility = (query: number, key: number) => boolean;

/**
 * A method at work on one session. Its `state` is plain data: it is copied when a session is forked and stored in
 * snapshots, so everything a method remembers must be in it or in the cache row.
 */
export interface MemoryBehavior {
  /** Anything that JSON can hold. Snapshots check that numbers are counts and lists hold token ids. */
  readonly state: Record<string, unknown>;
  /** `append` leaves the tokens to `closeStep` instead of feeding them. */
  readonly defersContext?: boolean;
  /** Positions never exceed the slot count, or only their differences matter: the model's limit does not apply. */
  readonly unlimited?: boolean;
  /** Only ever appends, so that undoing work means cutting the row off. */
  readonly appendOnly?: boolean;
  /** Most KV positions that a token sees, itself included, where a mask keeps it from seeing all; default: no limit. */
  readonly span?: number;
  /** Most tokens that the next run may take; default: no limit. */
  runLength?(session: MemorySession): number;
  /** Restricts what fed tokens see; default: everything before them. */
  visible?(session: MemorySession, purpose: FeedPurpose, positions: readonly number[]): Visibility | undefined;
  /** Compresses spans by an adapter of their own, beside the method's. */
  readonly compressesSpans?: boolean;
  /** Inputs may mark spans (`<CL>…<CR>`), which are handed to `beforeRun`. */
  readonly readsMarks?: boolean;
  /** Refuses marked spans of an input before any work. */
  checkMarks?(session: MemorySession, ids: readonly number[], marks: readonly Span[]): void;
  /**
   * Called before each run with the tokens that are to be read, and at the end of an input with none of them; may change
   * the cache. A method that has it must see every token, so inputs are not read side by side.
   * @param marks spans that the input marks, as ranges of `waiting`; below 0 lies what was read already
   * @returns how many of `waiting` the run may take at most
   */
  beforeRun?(session: MemorySession, waiting: readonly number[], marks: readonly Span[]): Promise<number>;
  /** Called after each run, with the rows of `ids` in the cache. */
  afterRun?(session: MemorySession, ids: readonly number[]): Promise<void>;
  /** Ends a time step: the open rows, from `session.openStart` on, become memory. */
  closeStep?(session: MemorySession): Promise<void>;
}

/** One memory method. Registered in `registry.ts`. */
export interface MemoryMethod {
  readonly name: string;
  /** One sentence for `precis methods`. */
  readonly summary: string;
  /** Where it was published. */
  readonly paper?: string;
  /** Whether it needs an adapter with COMP tokens. */
  readonly needsCompTokens: boolean;
  /** Whether that adapter must also scale summaries, so that none but its own kind will do. */
  readonly needsSummaryGain?: boolean;
  /** Whether that adapter's new tokens must be sentinels rather than COMP tokens. */
  readonly needsSentinels?: boolean;
  readonly options: Readonly<Record<string, OptionSpec>>;
  /** KV positions that are ever needed at once beyond the option `window`, for methods that this option bounds. */
  readonly beyondWindow?: (compTokens: number) => number;
  /** Whether a stored state can belong to a row of so many slots; default: any can. */
  fits?(state: Readonly<Record<string, unknown>>, slots: number): boolean;
  create(options: OptionValues, state?: Record<string, unknown>): MemoryBehavior;
}

/** Declares a method; gives `create` options of the declared types. */
export function defineMethod<Specs extends Readonly<Record<string, OptionSpec>>>(
  method: Omit<MemoryMethod, "options" | "create"> & {
    options: Specs;
    create(
      options: { [Name in keyof Specs]: Widen<Specs[Name]["default"]> },
      state?: Record<string, unknown>,
    ): MemoryBehavior;
  },
): MemoryMethod {
  return method as unknown as MemoryMethod;
}

type Widen<Value> = Value extends number ? number : Value extends boolean ? boolean : string;

function invalid(method: MemoryMethod, name: string, value: unknown, expected: string): PrecisError {
  return new PrecisError(
    "OPTION_INVALID",
    `Option "${name}" of ${method.name} must be ${expected}, not ${JSON.stringify(value)}.`,
    {
      value,
      nextStep: "`precis methods` lists the options of each method.",
    },
  );
}

function checkOption(method: MemoryMethod, name: string, spec: OptionSpec, value: unknown): OptionValue {
  if (typeof spec.default === "number") {
    const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
    const { min = -Infinity, max = Infinity, integer = true } = spec;
    const range = max === Infinity ? `at least ${min}` : `from ${min} to ${max}`;
    const fits = typeof number === "number" && number >= min && number <= max && (!integer || Number.isInteger(number));
    if (!fits) throw invalid(method, name, value, `a ${integer ? "whole " : ""}number ${range}`);
    return number;
  }
  if (typeof spec.default === "boolean") {
    if (value === true || value === "true") return true;
    if (value === false || value === "false") return false;
    throw invalid(method, name, value, "true or false");
  }
  const { choices } = spec;
  if (typeof value === "string" && (choices === undefined || choices.includes(value))) return value;
  throw invalid(method, name, value, `one of ${choices?.join(", ") ?? "any text"}`);
}

/**
 * All options of a method: those given, checked, and defaults for the others. Numbers and booleans may be text, as they
 * are on a command line.
 * @throws OPTION_INVALID for an unknown name or a value out of range
 */
export function resolveOptions(method: MemoryMethod, given: Readonly<Record<string, unknown>>): OptionValues {
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(method.options, name)) continue;
    throw new PrecisError("OPTION_INVALID", `The method ${method.name} has no option "${name}".`, {
      value: name,
      nextStep: `Its options are: ${Object.keys(method.options).join(", ") || "none"}.`,
    });
  }
  return Object.fromEntries(
    Object.entries(method.options).map(([name, spec]) => [
      name,
      checkOption(method, name, spec, given[name] ?? spec.default),
    ]),
  );
}
