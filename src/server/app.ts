/** @file The server as an application without a port: routes, checks before them, and what happens when it closes. */
import { Hono } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { MemoryStore } from "../index.js";
import { ApiError, describeFailure } from "./api-error.js";
import { BodyBudget } from "./body-budget.js";
import type { Env, Services } from "./context.js";
import { MemoryBudget } from "./memory-budget.js";
import { ServerMetrics } from "./metrics.js";
import { authenticate } from "./middleware/auth.js";
import { limitBodies } from "./middleware/bodies.js";
import { guardOrigins } from "./middleware/guard.js";
import { observe } from "./middleware/observe.js";
import { limitRate } from "./middleware/rate-limit.js";
import { ModelPool, type ServedModel } from "./models.js";
import { describeApi } from "./openapi.js";
import { DEFAULT_LIMITS, type ServerOptions } from "./options.js";
import { servePage } from "./page.js";
import { ROUTES } from "./routes/table.js";
import { Scheduler } from "./scheduler.js";
import { SessionManager } from "./sessions/session-manager.js";

/** A server without a port. */
export interface ServerApp {
  /** Answers a request. */
  fetch: (request: Request) => Response | Promise<Response>;
  /** {@link ServerApp.fetch} for a path, for tests. */
  request: Hono<Env>["request"];
  /**
   * Takes no new work, and gives what runs `graceMs` to end; what was answered is saved already. Store and models stay
   * open, as who opened them closes them.
   */
  close: (graceMs?: number) => Promise<void>;
}

/**
 * Makes a server of models.
 *
 * @example
 * const app = createApp([{ id: "tiny", model, adapters: [], setup: { method: "streaming" }, created: 0 }]);
 * const answer = await app.request("/v1/models");
 */
export function createApp(models: readonly ServedModel[], options: ServerOptions = {}): ServerApp {
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const {
    keys = [],
    store = new MemoryStore(),
    origins = [],
    hosts,
    precision = "fp32",
    log = () => undefined,
  } = options;
  const metrics = new ServerMetrics();
  const budget = new MemoryBudget(limits.memoryBytes);
  const scheduler = new Scheduler(budget, limits, { onRejected: (reason) => metrics.rejected(reason) });
  const bodies = new BodyBudget(limits.bodiesBytes, () => metrics.rejected("bodies"));
  const pool = new ModelPool(models);
  const sessions = new SessionManager({ store, models: pool, budget, scheduler, limits, precision, log });
  const services: Services = { models: pool, sessions, scheduler, limits, metrics, log };
  metrics.observe({
    running: () => scheduler.running,
    queued: () => scheduler.queued,
    heldBytes: () => budget.heldBytes,
    residents: () => budget.residents,
    bodyBytes: () => bodies.used,
    counts: () => sessions.counts,
  });
  const hono = new Hono<Env>();
  hono.onError((error, c) => {
    const { status, body, headers } = describeFailure(error);
    if (status >= 500) {
      log({ level: "error", event: "failure", id: c.get("requestId"), reason: error.message, stack: error.stack });
    }
    for (const [name, value] of Object.entries(headers)) c.header(name, value);
    return c.json(body, status as ContentfulStatusCode);
  });
  hono.notFound((c) => {
    const message = `There is no ${c.req.method} ${c.req.path}.`;
    const nextStep = "GET /openapi.json lists what there is.";
    return c.json(describeFailure(new ApiError(404, "route_not_found", message, { nextStep })).body, 404);
  });
  hono.use(observe({ log, metrics }), guardOrigins(origins, hosts));
  if (options.page !== undefined) servePage(hono, options.page);
  hono.get("/health", (c) => c.json({ status: "ok", models: pool.all.map(({ id }) => id) }));
  const authenticated = authenticate(keys);
  hono.get("/metrics", authenticated, async (c) =>
    c.body(await metrics.registry.metrics(), 200, { "content-type": metrics.registry.contentType }),
  );
  hono.get("/openapi.json", (c) => c.json(describeApi(ROUTES, { version: "1", secured: keys.length > 0 })));
  hono.use("/v1/*", authenticated, limitRate(limits.requestsPerMinute, metrics), limitBodies(limits, bodies));
  for (const { method, path, handler } of ROUTES) hono[method](path, (c) => handler(c, services));
  return {
    fetch: (request) => hono.fetch(request),
    request: hono.request,
    close: (graceMs = 0) => scheduler.close(graceMs),
  };
}
