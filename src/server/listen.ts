/** @file A server on a port, and how it goes down without cutting anybody off. */
import type { AddressInfo } from "node:net";
import type { Server } from "node:http";
import { createAdaptorServer } from "@hono/node-server";
import { PrecisError } from "../errors.js";
import type { ServerApp } from "./app.js";

/** A server at work. */
export interface Listening {
  /** Where it answers, such as `http://127.0.0.1:8080`. */
  url: string;
  port: number;
  /** Takes no new work, lets answers finish for `graceMs`, saves all sessions, and frees the port. */
  close: (graceMs?: number) => Promise<void>;
}

/** How often connections without a request are looked for while closing. */
const IDLE_CHECK_MS = 50;
/** What clients get to read the end of their answers once no work is left. */
const LAST_WORDS_MS = 2000;

/**
 * Opens the port.
 * @param where.port 0 for any free one
 * @throws OPTION_INVALID where the port is taken or may not be used
 */
export async function listen(app: ServerApp, { host, port }: { host: string; port: number }): Promise<Listening> {
  const server = createAdaptorServer({ fetch: app.fetch }) as Server;
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
