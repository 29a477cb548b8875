/** @file How many requests a key may send per minute: a bucket that refills evenly. */
import type { MiddlewareHandler } from "hono";
import { ApiError } from "../api-error.js";
import type { Env, Services } from "../context.js";

/** Limits requests per namespace. @param perMinute 0 for no limit @param now milliseconds, for tests */
export function limitRate(
  perMinute: number,
  metrics: Services["metrics"],
  now: () => number = () => performance.now(),
): MiddlewareHandler<Env> {
  const buckets = new Map<string, { tokens: number; at: number }>();
  return async (c, next) => {
    if (perMinute === 0) return next();
    const namespace = c.get("namespace");
    const at = now();
    const bucket = buckets.get(namespace) ?? { tokens: perMinute, at };
    const tokens = Math.min(perMinute, bucket.tokens + ((at - bucket.at) / 60_000) * perMinute);
    const left = tokens - 1;
    buckets.set(namespace, { tokens: left >= 0 ? left : tokens, at });
    c.header("x-ratelimit-limit-requests", String(perMinute));
    c.header("x-ratelimit-remaining-requests", String(Math.max(0, Math.floor(left))));
    if (left >= 0) return next();
    metrics.rejected("rate");
    throw new ApiError(429, "rate_limit_exceeded", `This key may send ${perMinute} requests per minute.`, {
      nextStep: "Wait a little.",
      retryAfter: ((1 - tokens) / perMinute) * 60,
    });
  };
}
