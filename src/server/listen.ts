/** @file A server on a port, and how it goes down without cutting anybody off. */
import type { AddressInfo } from "node:net";
import { createServer, type Server } from "node:http";
import { getRequestListener } from "@hono/node-server";
import { PrecisError } from "../errors.js";
import type { ServerApp } from "./app.js";
import { answerBrokenRequests, refuseUnreadable } from "./broken-requests.js";

/** A server at work. */
export interface Listening {
  /** Where it answers, such as `http://127.0.0.1:8080`. */
  url: string;
  port: number;
  /** Takes no new work, lets answers finish for `graceMs`, saves all sessions, and frees the port. */
  close: (graceMs?: number) => Promise<void>;
}

/** How long clients may take to send a request; who sends it drop by drop gets 408. */
export interface RequestTimes {
  /** Until its headers are there. */
  headersMs: number;
  /** Until all of it is there. */
  requestMs: number;
}

/** Enough for a large snapshot over a slow line. */
const TIMES: RequestTimes = { headersMs: 20_000, requestMs: 300_000 };
/** Connections that are too slow are looked for so often, or more often for shorter times. */
const SLOWNESS_CHECK_MS = 5000;

/** How often connections without a request are looked for while closing. */
const IDLE_CHECK_MS = 50;
/** What clients get to read the end of their answers once no work is left. */
const LAST_WORDS_MS = 2000;

/**
 * Opens the port.
 * @param where.port 0 for any free one
 * @param where.times what slow clients get
 * @throws OPTION_INVALID where the port is taken or may not be used
 */
export async function listen(
  app: ServerApp,
  { host, port, times = TIMES }: { host: string; port: number; times?: RequestTimes },
): Promise<Listening> {
  const { headersMs, requestMs } = times;
  const answer = getRequestListener(app.fetch, { errorHandler: refuseUnreadable });
  const server = createServer(
    {
      headersTimeout: headersMs,
      requestTimeout: requestMs,
      connectionsCheckingInterval: Math.min(SLOWNESS_CHECK_MS, headersMs),
      // Without one the request is refused in our words rather than in Node's.
      requireHostHeader: false,
    },
    answer,
  );
  // What a client expects beside 100-continue makes no difference to its answer.
  server.on("checkExpectation", answer);
  answerBrokenRequests(server);
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(cannotListen(error, `${host}:${port}`)));
    server.listen(port, host, resolve);
  });
  const { port: opened } = server.address() as AddressInfo;
  const name = host.includes(":") ? `[${host}]` : host;
  return {
    url: `http://${name}:${opened}`,
    port: opened,
    close: (graceMs = 0) => closeGently(server, app, graceMs),
  };
}

function cannotListen(error: NodeJS.ErrnoException, address: string): PrecisError {
  const taken = error.code === "EADDRINUSE";
  const why = taken ? "another program listens there" : error.message;
  return new PrecisError("OPTION_INVALID", `The server cannot listen on ${address}: ${why}.`, {
    value: address,
    nextStep: "Choose another with --port and --host; --port 0 takes any free one.",
    cause: error,
  });
}

async function closeGently(server: Server, app: ServerApp, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // Connections that are kept alive without a request would keep it open for ever.
  const sweep = setInterval(() => server.closeIdleConnections(), IDLE_CHECK_MS);
  try {
    await app.close(graceMs);
    const deadline = setTimeout(() => server.closeAllConnections(), LAST_WORDS_MS);
    await closed;
    clearTimeout(deadline);
  } finally {
    clearInterval(sweep);
  }
}
