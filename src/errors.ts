/** @file The one error type of the library: a code for programs, a message for people, and the next step. */

/** Every code a {@link PrecisError} may carry. Programs switch on these; messages may change, codes do not. */
export type ErrorCode =
  | "ABORTED"
  | "ADAPTER_INVALID"
  | "ADAPTER_MISMATCH"
  | "CONFIG_INVALID"
  | "CONTEXT_OVERFLOW"
  | "DEPENDENCY_MISSING"
  | "DEVICE_UNAVAILABLE"
  | "DISPOSED"
  | "ENGINE_FAILED"
  | "FILE_INVALID"
  | "FILE_NOT_FOUND"
  | "GRAPH_INVALID"
  | "HUB_UNREACHABLE"
  | "INPUT_INVALID"
  | "LEASE_HELD"
  | "LEASE_LOST"
  | "METHOD_UNKNOWN"
  | "MODEL_UNSUPPORTED"
  | "OPTION_INVALID"
  | "OUT_OF_MEMORY"
  | "REQUEST_REFUSED"
  | "SCHEMA_UNSUPPORTED"
  | "SNAPSHOT_CORRUPT"
  | "SNAPSHOT_MISMATCH"
  | "STORE_CONFLICT"
  | "STORE_CORRUPT"
  | "STORE_KEY_MISMATCH"
  | "STORE_UNAVAILABLE"
  | "TEMPLATE_FAILED"
  | "WEIGHTS_INVALID";

/** Details of a {@link PrecisError}. */
export interface ErrorDetails {
  /** What the user can do about it, as one imperative sentence. */
  nextStep?: string;
  /** The offending value, if it is small enough to show. */
  value?: unknown;
  /** The error underneath. */
  cause?: unknown;
}

/**
 * The error that every part of the library throws for bad input, missing resources and failed work.
 * It crosses worker threads by {@link PrecisError.toJSON} and {@link PrecisError.fromJSON}.
 */
export class PrecisError extends Error {
  override readonly name: string = "PrecisError";
  readonly code: ErrorCode;
  readonly nextStep: string | undefined;
  readonly value: unknown;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(details.nextStep === undefined ? message : `${message} ${details.nextStep}`, { cause: details.cause });
    this.code = code;
    this.nextStep = details.nextStep;
    this.value = details.value;
  }

  /** A plain object that survives structured cloning and `JSON.stringify`. */
  toJSON(): SerializedError {
    return { code: this.code, message: this.message, nextStep: this.nextStep, value: this.value };
  }

  /** The inverse of {@link PrecisError.toJSON}. */
  static fromJSON(json: SerializedError): PrecisError {
    const error = new PrecisError(json.code, json.message, { value: json.value });
    Object.defineProperty(error, "nextStep", { value: json.nextStep, enumerable: true });
    return error;
  }

  /** `error` itself if it is a PrecisError, else a new one with `code` that has it as its cause. */
  static from(error: unknown, code: ErrorCode, message: string, nextStep?: string): PrecisError {
    if (error instanceof PrecisError) return error;
    const reason = error instanceof Error ? error.message : String(error);
    return new PrecisError(code, `${message}: ${reason}`, { cause: error, nextStep });
  }
}

/** The wire form of a {@link PrecisError}. */
export interface SerializedError {
  code: ErrorCode;
  message: string;
  nextStep: string | undefined;
  value: unknown;
}
