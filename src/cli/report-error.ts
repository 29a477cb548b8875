/** @file Shows an error that ended a command, and turns it into an exit code. */
import { CommanderError } from "commander";
import { PrecisError, type ErrorCode } from "../errors.js";
import { styleOf } from "./style.js";

/** Exit codes by kind of failure; 1 is left for bugs. */
const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  OPTION_INVALID: 2,
  REQUEST_REFUSED: 2,
  SCHEMA_UNSUPPORTED: 2,
  METHOD_UNKNOWN: 2,
  INPUT_INVALID: 2,
  CONTEXT_OVERFLOW: 2,
  TEMPLATE_FAILED: 2,
  FILE_NOT_FOUND: 3,
  HUB_UNREACHABLE: 3,
  STORE_UNAVAILABLE: 3,
  DEVICE_UNAVAILABLE: 4,
  DEPENDENCY_MISSING: 4,
  DISPOSED: 4,
  ENGINE_FAILED: 4,
  GRAPH_INVALID: 4,
  OUT_OF_MEMORY: 4,
  ADAPTER_INVALID: 5,
  ADAPTER_MISMATCH: 5,
  CONFIG_INVALID: 5,
  FILE_INVALID: 5,
  MODEL_UNSUPPORTED: 5,
  SNAPSHOT_CORRUPT: 5,
  SNAPSHOT_MISMATCH: 5,
  STORE_CORRUPT: 5,
  STORE_KEY_MISMATCH: 5,
  WEIGHTS_INVALID: 5,
  LEASE_HELD: 6,
  LEASE_LOST: 6,
  STORE_CONFLICT: 6,
  ABORTED: 130,
};

/** What is shown of an error. */
export interface ErrorReport {
  code: ErrorCode | "INTERNAL";
  message: string;
  nextStep: string | undefined;
  exitCode: number;
}

/** The parts of `error` that people and programs need. `command` is the one that ran, for pointing to its help. */
export function describeError(error: unknown, command?: string): ErrorReport {
  if (error instanceof PrecisError) {
    const { code, nextStep } = error;
    // The message of a PrecisError ends with its next step, which gets a line of its own here.
    const message = nextStep === undefined ? error.message : error.message.replace(` ${nextStep}`, "");
    return { code, message, nextStep, exitCode: EXIT_CODES[code] ?? 1 };
  }
  if (error instanceof CommanderError) {
    const help = command === undefined ? "precis --help" : `precis ${command} --help`;
    const message = error.message.replace(/^error: /, "").replaceAll("\n", " ");
    return { code: "OPTION_INVALID", message, nextStep: `Run \`${help}\` for usage and examples.`, exitCode: 2 };
  }
  const message = error instanceof Error ? error.message : String(error);
  const nextStep = "This looks like a bug in Precis; set PRECIS_DEBUG=1 to see where it happened.";
  return { code: "INTERNAL", message, nextStep, exitCode: 1 };
}

/** `error [CODE]: message`, with the next step below, styled for `stream`. */
export function formatError({ code, message, nextStep }: ErrorReport, stream: NodeJS.WriteStream): string {
  const { alert, dim } = styleOf(stream);
  const advice = nextStep === undefined ? "" : `\n${dim(`  → ${nextStep}`)}`;
  return `${alert(`error [${code}]:`)} ${message}${advice}`;
}

/** Writes `error` to stderr, as text or JSON; stack traces only with PRECIS_DEBUG=1. @returns the exit code */
export function reportError(error: unknown, { json, command }: { json: boolean; command?: string }): number {
  const report = describeError(error, command);
  process.stderr.write(json ? `${JSON.stringify({ error: report })}\n` : `${formatError(report, process.stderr)}\n`);
  if (process.env.PRECIS_DEBUG === "1" && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return report.exitCode;
}
