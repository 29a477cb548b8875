/** @file Request ids, the log, and counts of requests. */
import { randomUUID } from "node:crypto";
import type { MiddlewareHandler } from "hono";
import { routePath } from "hono/route";
import type { Env, Services } from "../context.js";

/** Gives each request an id, the client's own if it is harmless, and logs and counts how it was answered. */
export function observe({ log, metrics }: Pick<Services, "log" | "metrics">): MiddlewareHandler<Env> {
  return async (c, next) => {
    const asked = c.req.header("x-request-id") ?? "";
    const id = /^[A-Za-z0-9._-]{1,100}$/.test(asked) ? asked : randomUUID();
    c.set("requestId", id);
    c.header("x-request-id", id);
    const startedAt = performance.now();
    await next();
    const ms = performance.now() - startedAt;
    const { method, path } = c.req;
    const { status } = c.res;
    const pattern = routePath(c, -1);
    // Paths that nobody serves would make a time series each.
    const route = pattern.includes("*") ? "unknown" : pattern;
    metrics.answered({ route, method, status, seconds: ms / 1000 });
    const namespace = c.get("namespace") ?? null;
    log({ level: "info", event: "request", id, method, path, status, ms: Math.round(ms), namespace });
  };
}
