/** @file Failures as HTTP answers in the form that OpenAI's clients read; nothing inside the server leaks into them. */
import { PrecisError, type ErrorCode } from "../errors.js";

/** The `type` field of an error body. */
export type ApiErrorType =
  | "invalid_request_error"
  | "authentication_error"
  | "permission_error"
  | "not_found_error"
  | "conflict_error"
  | "rate_limit_error"
  | "server_error";

/** Details of an {@link ApiError}. */
export interface ApiErrorDetails {
  nextStep?: string;
  /** The field of the request that is at fault. */
  param?: string | undefined;
  /** Seconds after which a retry may succeed. */
  retryAfter?: number;
  cause?: unknown;
}

const TYPES: Readonly<Record<number, ApiErrorType>> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  409: "conflict_error",
  429: "rate_limit_error",
};

/** A request that is refused, with the status it gets and the code that programs switch on. */
export class ApiError extends PrecisError {
  readonly status: number;
  /** The `code` field of the body, such as `"session_not_found"`. */
  readonly apiCode: string;
  readonly param: string | undefined;
  readonly retryAfter: number | undefined;

  constructor(status: number, apiCode: string, message: string, details: ApiErrorDetails = {}) {
    const { nextStep, cause } = details;
    super("REQUEST_REFUSED", message, { ...(nextStep === undefined ? {} : { nextStep }), cause, value: details.param });
    this.status = status;
    this.apiCode = apiCode;
    this.param = details.param;
    this.retryAfter = details.retryAfter;
  }
}

/** A 400 about one field. */
export function invalidRequest(param: string, message: string, nextStep?: string): ApiError {
  return new ApiError(400, "invalid_value", message, { param, ...(nextStep === undefined ? {} : { nextStep }) });
}

/** A 400 for a feature that is not built, so that nobody takes a plain answer for it. */
export function notSupported(param: string, what: string, nextStep: string): ApiError {
  return new ApiError(400, "unsupported_parameter", `${what} is not supported yet.`, { param, nextStep });
}

/** Statuses of the library's errors that a client can do something about; all others are the server's own fault. */
const STATUSES: Readonly<Partial<Record<ErrorCode, number>>> = {
  INPUT_INVALID: 400,
  OPTION_INVALID: 400,
  METHOD_UNKNOWN: 400,
  TEMPLATE_FAILED: 400,
  SCHEMA_UNSUPPORTED: 400,
  CONTEXT_OVERFLOW: 400,
  SNAPSHOT_CORRUPT: 400,
  SNAPSHOT_MISMATCH: 409,
  STORE_CONFLICT: 409,
  LEASE_HELD: 409,
  LEASE_LOST: 409,
  ABORTED: 499,
  DISPOSED: 503,
  OUT_OF_MEMORY: 503,
  STORE_UNAVAILABLE: 503,
};

/** What may succeed when it is simply sent again. */
const ANOTHER_WAS_FASTER: ReadonlySet<ErrorCode> = new Set(["STORE_CONFLICT", "LEASE_HELD", "LEASE_LOST"]);

const CODES: Readonly<Partial<Record<ErrorCode, string>>> = { CONTEXT_OVERFLOW: "context_length_exceeded" };

/** What can be done about errors that say nothing more special. */
const NEXT_STEPS: Readonly<Record<number, string>> = {
  404: "GET /openapi.json lists what there is.",
  409: "Look at the session as it is now, and send the request again.",
  429: "Try again later.",
  499: "Send the request again.",
  500: "Its log says why, under this answer's x-request-id.",
  503: "Try again later.",
};
const ANY_NEXT_STEP = "GET /openapi.json says what requests look like.";

/** Longest text in an error, in UTF-16 units: what a client sent is quoted, but not in full. */
const QUOTED_LENGTH = 500;

/** The body of an error. */
export interface ErrorBody {
  error: { message: string; type: ApiErrorType; param: string | null; code: string; next_step: string };
}

/** An error as it goes out. */
export interface FailureAnswer {
  status: number;
  body: ErrorBody;
  headers: Record<string, string>;
}

function answer(
  status: number,
  code: string,
  message: string,
  rest: { nextStep?: string | undefined; param?: string | undefined; retryAfter?: number | undefined } = {},
): FailureAnswer {
  const { nextStep = NEXT_STEPS[status] ?? ANY_NEXT_STEP, param, retryAfter } = rest;
  const type = TYPES[status] ?? (status < 500 ? "invalid_request_error" : "server_error");
  const field = param === undefined ? null : shortened(param);
  return {
    status,
    body: { error: { message: shortened(message), type, param: field, code, next_step: shortened(nextStep) } },
    headers: retryAfter === undefined ? {} : { "retry-after": String(Math.max(1, Math.ceil(retryAfter))) },
  };
}

function shortened(text: string): string {
  return text.length > QUOTED_LENGTH ? `${text.slice(0, QUOTED_LENGTH)}…` : text;
}

/**
 * What a client gets to see of any error. Errors that are no client's fault become a 500 without their message, which
 * may name files; the log has it under the request's id.
 */
export function describeFailure(error: unknown): FailureAnswer {
  if (error instanceof ApiError) return answer(error.status, error.apiCode, error.message, error);
  if (error instanceof PrecisError) {
    if (error.code === "ADAPTER_MISMATCH") {
      // Its message may name the server's folders.
      const nextStep = "GET /v1/models lists adapters and the methods that they were made for.";
      return answer(400, "adapter_mismatch", `The method cannot use these adapters. ${nextStep}`, { nextStep });
    }
    const status = STATUSES[error.code];
    const code = CODES[error.code] ?? error.code.toLowerCase();
    if (status === 503) {
      return answer(503, code, "The server cannot do this right now. Try again later.", { retryAfter: 5 });
    }
    const retryAfter = ANOTHER_WAS_FASTER.has(error.code) ? 1 : undefined;
    if (status !== undefined) return answer(status, code, error.message, { nextStep: error.nextStep, retryAfter });
  }
  return answer(500, "internal_error", "The server failed.");
}
