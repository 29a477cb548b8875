/** @file How large bodies may be: each for itself, and all that are held at once. */
import type { MiddlewareHandler } from "hono";
import { BodyRoom, type BodyBudget } from "../body-budget.js";
import type { Env } from "../context.js";
import type { ServerLimits } from "../options.js";

const IMPORT = "/v1/sessions/import";

/** Refuses bodies that are announced as too large before they are sent; snapshots may be larger than JSON. */
export function limitBodies(
  { bodyBytes, snapshotBytes }: Pick<ServerLimits, "bodyBytes" | "snapshotBytes">,
  budget: BodyBudget,
): MiddlewareHandler<Env> {
  return async (c, next) => {
    const room = new BodyRoom(budget, c.req.path === IMPORT ? snapshotBytes : bodyBytes);
    const announced = Number(c.req.header("content-length") ?? 0);
    if (announced > 0) room.expect(announced);
    c.set("bodyRoom", room);
    try {
      await next();
    } finally {
      room.release();
    }
  };
}
