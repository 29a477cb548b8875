/** @file Bodies of many requests at once over real sockets: the server holds only so many bytes of them. */
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createApp } from "#precis/server/app.js";
import { BodyBudget, BodyRoom } from "#precis/server/body-budget.js";
import { listen, type Listening } from "#precis/server/listen.js";
import type { Fixture } from "../conformance/fixtures.js";
import { servedTiny, tinyFixture } from "./fixture.js";

const LIMITS = { bodyBytes: 80_000, bodiesBytes: 100_000 };

let fixture: Fixture;
let server: Listening;
const sockets: Socket[] = [];
beforeAll(async () => {
  fixture = await tinyFixture();
  server = await listen(createApp([servedTiny(fixture)], { limits: LIMITS }), { host: "127.0.0.1", port: 0 });
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await held(0);
});
afterAll(async () => {
  await server.close();
  await fixture[Symbol.asyncDispose]();
});

/** A body of so many bytes that is read in full and refused for what it says. */
function nonsense(bytes: number): string {
  return JSON.stringify({ messages: "x".repeat(bytes - '{"messages":""}'.length) });
}

const PATH = "/v1/chat/completions";

/** Begins a request with a body of so many bytes, and sends some of them. */
function begin(bytes: number, sent: number): Socket {
  const socket = connect({ host: "127.0.0.1", port: server.port });
  sockets.push(socket);
  socket.on("error", () => undefined);
  const head = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", "content-type: application/json"];
  socket.write(
    [...head, `content-length: ${bytes}`, "connection: close", "", nonsense(bytes).slice(0, sent)].join("\r\n"),
  );
  return socket;
}

/** What the server says to the rest of a request. */
async function finish(socket: Socket, rest: string): Promise<string> {
  let received = "";
  socket.on("data", (chunk: Buffer) => (received += chunk.toString()));
  socket.write(rest);
  await new Promise((resolve) => socket.once("close", resolve));
  return received;
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  const line = text.split("\n").find((candidate) => candidate.startsWith(name));
  return Number(line?.split(" ").at(-1) ?? 0);
}

/** Waits until the server holds so many bytes of bodies. */
async function held(bytes: number): Promise<void> {
  for (let i = 0; i < 500 && (await metric("precis_body_bytes")) !== bytes; i++) await sleep(10);
  expect(await metric("precis_body_bytes")).toBe(bytes);
}

interface Refusal {
  status: number;
  code: string | undefined;
  retryAfter: string | null;
}

/** Sends a whole body, with its length or in chunks. */
async function post(body: string, chunked: boolean): Promise<Refusal> {
  const headers = { "content-type": "application/json" };
  const stream = new Blob([body]).stream();
  const init = chunked ? { body: stream, duplex: "half" as const } : { body };
  const response = await fetch(`${server.url}${PATH}`, { method: "POST", headers, ...init });
  const { error } = (await response.json()) as { error: { code: string } };
  return { status: response.status, code: error.code, retryAfter: response.headers.get("retry-after") };
}

const FULL = { status: 503, code: "body_budget_exceeded", retryAfter: "1" };
const READ = { status: 400, code: "invalid_value", retryAfter: null };

describe.each([
  ["with their length", false],
  ["in chunks", true],
])("bodies sent %s", (_, chunked) => {
  test("get 503 and may be sent again while others fill the server", async () => {
    const refused = await metric('precis_rejected_total{reason="bodies"}');
    const slow = begin(70_000, 60_000);
    await held(60_000);
    expect(await post(nonsense(50_000), chunked)).toEqual(FULL);
    expect(await post(nonsense(30_000), chunked)).toEqual(READ);
    expect(await metric('precis_rejected_total{reason="bodies"}')).toBe(refused + 1);
    expect(await finish(slow, nonsense(70_000).slice(60_000))).toMatch(/^HTTP\/1.1 400 /);
    await held(0);
    expect(await post(nonsense(50_000), chunked)).toEqual(READ);
  });

  test("that are too large for themselves still get 413", async () => {
    expect(await post(nonsense(90_000), chunked)).toMatchObject({ status: 413, code: "body_too_large" });
  });
});

test("requests that announce much and send nothing keep nobody out", async () => {
  for (let i = 0; i < 5; i++) begin(80_000, 0);
  await sleep(50);
  expect(await post(nonsense(60_000), false)).toEqual(READ);
});

test("what a client sent counts no longer once it is gone", async () => {
  const slow = begin(70_000, 60_000);
  await held(60_000);
  slow.destroy();
  await held(0);
});

test("a body may never be larger than all of them together", () => {
  const budget = new BodyBudget(100);
  expect(() => new BodyRoom(budget, 1000).expect(101)).toThrow(/larger than 100 bytes/);
  expect(() => new BodyRoom(budget, 1000).expect(100)).not.toThrow();
});
