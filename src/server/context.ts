/** @file What every route works with, and how it reads requests. */
import type { Context } from "hono";
import type { z } from "zod";
import { ApiError, describeFailure, invalidRequest } from "./api-error.js";
import type { BodyRoom } from "./body-budget.js";
import { parseJson, readBytes } from "./body.js";
import type { ServerMetrics } from "./metrics.js";
import type { ModelPool } from "./models.js";
import type { LogRecord, ServerLimits } from "./options.js";
import type { Scheduler } from "./scheduler.js";
import type { SessionManager } from "./sessions/session-manager.js";

/** The parts of a server that routes share. */
export interface Services {
  models: ModelPool;
  sessions: SessionManager;
  scheduler: Scheduler;
  limits: ServerLimits;
  metrics: ServerMetrics;
  log: (record: LogRecord) => void;
}

/** What middleware leaves on a request. */
export interface Env {
  Variables: {
    requestId: string;
    /** Whose sessions the request may see. */
    namespace: string;
    /** Where the bytes of its body are counted. */
    bodyRoom: BodyRoom;
  };
}

/** A request. */
export type Request = Context<Env>;

function fieldOf(path: readonly PropertyKey[]): string {
  return path.map(String).join(".");
}

/**
 * The JSON body of a request, checked.
 * @throws ApiError 415 for another type or an encoding, 400 for what is not JSON, too deep or does not fit
 */
export async function readBody<Body>(c: Request, schema: z.ZodType<Body>): Promise<Body> {
  // Browsers send no cross-origin JSON without asking first, so this keeps foreign pages out.
  return checked(parseJson(await readBytes(c, "application/json")), schema);
}

/** A value that fits a schema. @throws ApiError 400 naming the first field that does not */
export function checked<Value>(value: unknown, schema: z.ZodType<Value>): Value {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = fieldOf(issue?.path ?? []);
  throw invalidRequest(field, `${field === "" ? "The body" : `"${field}"`}: ${issue?.message ?? "invalid"}.`);
}

/**
 * A signal that fires when the client goes away, and the function that says it did: servers learn of it from the request
 * or, once an answer streams, from the stream.
 */
export function clientSignal(c: Request): { signal: AbortSignal; leave: () => void } {
  const controller = new AbortController();
  const leave = (): void => controller.abort(new ApiError(499, "client_closed_request", "The client went away."));
  const { signal } = c.req.raw;
  if (signal.aborted) leave();
  else signal.addEventListener("abort", leave, { once: true });
  return { signal: controller.signal, leave };
}

/** What happens when a streaming client leaves, or the stream fails. @param leave cancels the work */
export function streamHooks(
  { metrics, log }: Services,
  leave: () => void,
): { onLeave: () => void; onFailure: (error: unknown) => void } {
  return {
    onLeave: () => {
      metrics.aborted();
      leave();
    },
    onFailure: (error) => {
      const level = describeFailure(error).status >= 500 ? "error" : "info";
      log({ level, event: "stream-failed", reason: error instanceof Error ? error.message : String(error) });
    },
  };
}
