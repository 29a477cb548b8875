/** @file Which web pages may call the server: those of this machine, and those it was told of. */
import type { MiddlewareHandler } from "hono";
import { ApiError } from "../api-error.js";
import type { Env } from "../context.js";

const LOCAL = new Set(["localhost", "127.0.0.1", "[::1]"]);

function isLocal(origin: string): boolean {
  try {
    return LOCAL.has(new URL(origin).hostname);
  } catch {
    return false;
  }
}

/** Whether a page came from this very server, under the name that the request uses for it. */
function isSame(origin: string, host: string | undefined): boolean {
  try {
    return new URL(origin).host === host;
  } catch {
    return false;
  }
}

function isHost(header: string, hosts: readonly string[]): boolean {
  return hosts.includes(header.replace(/:\d+$/, "").toLowerCase());
}

/**
 * Cross-origin requests of pages: answers preflights, names the origin where it is allowed, and refuses where not.
 * @param hosts names that a request may use for this server; undefined for any
 */
export function guardOrigins(origins: readonly string[], hosts: readonly string[] | undefined): MiddlewareHandler<Env> {
  const isAllowed = (origin: string): boolean => origins.includes("*") || origins.includes(origin) || isLocal(origin);
  return async (c, next) => {
    // A foreign page can make its own name point here, but not hide that name.
    if (hosts !== undefined && !isHost(c.req.header("host") ?? new URL(c.req.url).host, hosts)) {
      throw new ApiError(403, "host_not_allowed", "This server does not answer to that name.", {
        nextStep: `Call it as ${hosts.join(" or ")}.`,
      });
    }
    const origin = c.req.header("origin");
    if (origin === undefined) return next();
    if (!isAllowed(origin) && !isSame(origin, c.req.header("host"))) {
      throw new ApiError(403, "origin_not_allowed", "Pages of this origin may not call the server.", {
        nextStep: "Start it with --origin and the page's origin.",
      });
    }
    c.header("access-control-allow-origin", origin);
    c.header("vary", "origin");
    c.header("access-control-expose-headers", "x-request-id, retry-after");
    if (c.req.method !== "OPTIONS") return next();
    c.header("access-control-allow-methods", "GET, POST, DELETE");
    c.header("access-control-allow-headers", c.req.header("access-control-request-headers") ?? "content-type");
    c.header("access-control-max-age", "600");
    return c.body(null, 204);
  };
}
