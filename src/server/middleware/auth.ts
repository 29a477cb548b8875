/** @file API keys: who may call, and whose sessions they see. */
import { createHash, timingSafeEqual } from "node:crypto";
import type { MiddlewareHandler } from "hono";
import { ApiError } from "../api-error.js";
import type { Env } from "../context.js";
import type { ApiKey } from "../options.js";

/** Where everybody's sessions are while there are no keys. */
export const DEFAULT_NAMESPACE = "default";

function digest(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

/**
 * Lets requests with a known bearer key pass, or all where there are none. Digests are compared rather than keys, all of
 * them and in constant time, so that answers tell nothing about how much of a key was right.
 */
export function authenticate(keys: readonly ApiKey[]): MiddlewareHandler<Env> {
  const known = keys.map(({ key, namespace }) => ({ digest: digest(key), namespace }));
  return async (c, next) => {
    if (known.length === 0) {
      c.set("namespace", DEFAULT_NAMESPACE);
      return next();
    }
    const [, given] = /^Bearer\s+(\S+)\s*$/i.exec(c.req.header("authorization") ?? "") ?? [];
    const found = digest(given ?? "");
    let namespace: string | undefined;
    for (const key of known) if (timingSafeEqual(key.digest, found)) namespace = key.namespace;
    if (given === undefined || namespace === undefined) {
      throw new ApiError(
        401,
        "invalid_api_key",
        given === undefined ? "There is no API key." : "The API key is wrong.",
        {
          nextStep: "Send the header authorization: Bearer KEY.",
        },
      );
    }
    c.set("namespace", namespace);
    return next();
  };
}
