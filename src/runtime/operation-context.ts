/** @file What an operation of the worker may use besides its argument: how it is interrupted, and whom it tells. */
import { PrecisError } from "../errors.js";
import type { FromWorker } from "./protocol.js";

/** How a caller may interrupt: `abort` forgets the answer, `stop` keeps what there is. */
export interface Interruption {
  requested: "abort" | "stop" | undefined;
}

/** What an operation may use besides its argument. */
export interface OperationContext {
  interruption: Interruption;
  /** Fires with an abort request, for work that waits on files. */
  signal: AbortSignal;
  emit: (event: Extract<FromWorker, { event: unknown }>["event"]) => void;
}

/** Throws ABORTED if that was asked for. */
export function throwIfAborted(interruption: Interruption): void {
  if (interruption.requested === "abort") throw new PrecisError("ABORTED", "The work was cancelled.");
}
