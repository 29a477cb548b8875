/** @file Bytes on a real port: broken HTTP, bodies that lie about themselves or never come, and crowds of silent clients. */
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fc } from "../../property.js";
import { listen, type Listening } from "#precis/server/listen.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { tinyFixture, user } from "../fixture.js";
import { expectError, hostileTarget, inTime, MALLORY, tries, type Target } from "./support.js";

const TIMES = { headersMs: 400, requestMs: 800 };

let fixture: Fixture;
let target: Target;
let server: Listening;
beforeAll(async () => {
  fixture = await tinyFixture();
  target = await hostileTarget(fixture);
  server = await listen(target.app, { host: "127.0.0.1", port: 0, times: TIMES });
});
afterEach(() => target.unharmed());
afterAll(async () => {
  await server.close();
  expect(target.logged()).not.toContain('"level":"error"');
  await fixture[Symbol.asyncDispose]();
});

/** A connection, and all that has come from it. */
interface Line {
  socket: Socket;
  received: () => string;
  /** Resolves when the server has closed it. */
  closed: Promise<void>;
}

function dial(): Line {
  const socket = connect({ host: "127.0.0.1", port: server.port, allowHalfOpen: true });
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  socket.on("error", () => undefined);
  const closed = new Promise<void>((resolve) => {
    socket.once("end", resolve);
    socket.once("close", () => resolve());
  });
  return { socket, closed, received: () => Buffer.concat(chunks).toString("latin1") };
}

/** Sends bytes and waits until the server ends the connection. */
async function exchange(bytes: string | Uint8Array, { half = false } = {}): Promise<string> {
  const line = dial();
  if (half) line.socket.end(bytes);
  else line.socket.write(bytes);
  await inTime(line.closed, String(bytes).slice(0, 200));
  line.socket.destroy();
  return line.received();
}

interface Parsed {
  status: number;
  body: string;
}

/** The answers in what came: heads and bodies, by their lengths. */
function answersIn(received: string): Parsed[] {
  const found: Parsed[] = [];
  for (let rest = received; rest !== "";) {
    const head = /^HTTP\/1\.1 (\d{3})[^\r]*\r\n([\s\S]*?)\r\n\r\n/.exec(rest);
    if (head === null) throw new Error(`This is no answer: ${JSON.stringify(rest.slice(0, 200))}`);
    rest = rest.slice(head[0].length);
    const length = Number(/^content-length: (\d+)$/im.exec(head[2] as string)?.[1] ?? 0);
    const status = Number(head[1]);
    if (status >= 200) found.push({ status, body: Buffer.from(rest.slice(0, length), "latin1").toString("utf8") });
    rest = rest.slice(status >= 200 ? length : 0);
  }
  return found;
}

/** Fails unless all that came is refusals in words. */
function expectRefusals(received: string, statuses: readonly number[], about: string): void {
  const answers = answersIn(received);
  for (const { status, body } of answers) expectError(body, `${about} → ${status}`);
  expect(
    answers.map(({ status }) => status),
    about,
  ).toEqual(statuses);
}

const AUTH = `host: localhost\r\nauthorization: ${MALLORY.authorization}\r\n`;
const CHAT = `POST /v1/chat/completions HTTP/1.1\r\n${AUTH}connection: close\r\ncontent-type: application/json\r\n`;

function chunked(body: string): string {
  return `transfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
}

describe("broken HTTP", () => {
  const long = "x".repeat(40_000);
  test.each<[name: string, bytes: string, status: number]>([
    ["no HTTP at all", "\u0016\u0003\u0001\u0002\u0000\u0001\r\n\r\n", 400],
    ["another version", "GET / HTTP/9.9\r\n\r\n", 400],
    ["an unknown method", "FETCH /health HTTP/1.1\r\nhost: a\r\n\r\n", 400],
    ["no host", "GET /health HTTP/1.1\r\nconnection: close\r\n\r\n", 400],
    ["a host that is a path", "GET /health HTTP/1.1\r\nhost: a/../b\r\nconnection: close\r\n\r\n", 400],
    ["a path with a backslash", `GET /\\..\\x HTTP/1.1\r\n${AUTH}connection: close\r\n\r\n`, 400],
    ["a path of nothing", `GET ? HTTP/1.1\r\n${AUTH}connection: close\r\n\r\n`, 400],
    ["a header without a colon", "GET /health HTTP/1.1\r\nhost\r\n\r\n", 400],
    ["a header with NUL", "GET /health HTTP/1.1\r\nhost: a\r\nx: \u0000\r\n\r\n", 400],
    ["headers too large", `GET /health HTTP/1.1\r\nhost: a\r\nx: ${long}\r\n\r\n`, 431],
    ["a path too long", `GET /${long} HTTP/1.1\r\nhost: a\r\n\r\n`, 431],
    ["two lengths", `${CHAT}content-length: 2\r\ncontent-length: 3\r\n\r\n{}x`, 400],
    ["a length and chunks", `${CHAT}content-length: 2\r\n${chunked("{}")}`, 400],
    ["a length of letters", `${CHAT}content-length: two\r\n\r\n{}`, 400],
    ["a negative length", `${CHAT}content-length: -2\r\n\r\n{}`, 400],
    ["an endless length", `${CHAT}content-length: 99999999999999999999999\r\n\r\n{}`, 400],
    ["a chunk that is none", `${CHAT}transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`, 400],
    ["an unknown transfer encoding", `${CHAT}transfer-encoding: gzip\r\n\r\n{}`, 400],
    ["chunks of gzip", `${CHAT}transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`, 400],
    ["no body", `${CHAT}\r\n`, 400],
    ["an empty body", `${CHAT}content-length: 0\r\n\r\n`, 400],
    ["an expectation", `${CHAT}expect: miracles\r\ncontent-length: 2\r\n\r\n{}`, 400],
    ["an upgrade", `${CHAT.replace("close", "upgrade")}upgrade: websocket\r\ncontent-length: 2\r\n\r\n{}`, 400],
    ["TRACE", `TRACE /v1/models HTTP/1.1\r\n${AUTH}connection: close\r\n\r\n`, 404],
    ["OPTIONS *", `OPTIONS * HTTP/1.1\r\n${AUTH}connection: close\r\n\r\n`, 400],
  ])("%s is refused in words", async (name, bytes, status) => {
    const received = await exchange(bytes, { half: name === "an upgrade" });
    expectRefusals(received, [status], name);
  });

  test("bytes of any kind get a refusal or nothing", async () => {
    const starts = fc.constantFrom(
      "",
      "GET ",
      "POST /v1/responses HTTP/1.1\r\n",
      CHAT,
      `${CHAT}content-length: 9\r\n\r\n`,
    );
    await fc.assert(
      fc.asyncProperty(starts, fc.uint8Array({ minLength: 1, maxLength: 300 }), async (start, rest) => {
        const received = await exchange(Buffer.concat([Buffer.from(start), rest]), { half: true });
        for (const { status, body } of answersIn(received)) {
          expect(status).toBeGreaterThanOrEqual(400);
          expect(status).toBeLessThan(500);
          expectError(body, `${start} ${status}`);
        }
      }),
      tries(60, 41),
    );
  });
});

describe("bodies", () => {
  const valid = JSON.stringify({ messages: [user("Hi")], max_tokens: 2 });

  test("come in chunks, and compressed ones are refused before they are unpacked", async () => {
    const plain = answersIn(await exchange(`${CHAT}${chunked(valid)}`));
    expect(plain.map(({ status }) => status)).toEqual([200]);
    const bomb = gzipSync(Buffer.alloc(64 * 2 ** 20, 32));
    expect(bomb.length).toBeLessThan(300_000);
    for (const encoding of ["gzip", "deflate", "br", "gzip, gzip", "x"]) {
      const head = `${CHAT}content-encoding: ${encoding}\r\ncontent-length: ${bomb.length}\r\n\r\n`;
      expectRefusals(await exchange(Buffer.concat([Buffer.from(head), bomb])), [415], encoding);
    }
  });

  test("that are too large are refused, whether they say so or not", async () => {
    const large = "x".repeat(400_000);
    expectRefusals(await exchange(`${CHAT}content-length: ${large.length}\r\n\r\n${large}`), [413], "said");
    expectRefusals(await exchange(`${CHAT}content-length: 1000000000000\r\n\r\n${large}`), [413], "never sent");
    expectRefusals(await exchange(`${CHAT}${chunked(large)}`), [413], "in chunks");
  });

  test("that trickle in are given up, and so are headers", async () => {
    const slow = async (start: string, drop: string): Promise<string> => {
      const line = dial();
      line.socket.write(start);
      const timer = setInterval(() => line.socket.write(drop), 50);
      await inTime(line.closed, start);
      clearInterval(timer);
      line.socket.destroy();
      return line.received();
    };
    const received = await Promise.all([
      slow(`${CHAT}content-length: 5000\r\n\r\n{`, " "),
      slow(`${CHAT}transfer-encoding: chunked\r\n\r\n`, "1\r\n \r\n"),
      slow("GET /health HTTP/1.1\r\nhost: a\r\n", "x-more: 1\r\n"),
      slow("", "G".slice(1)),
    ]);
    for (const [index, text] of received.entries()) expectRefusals(text, [408], `slow ${index}`);
  });

  test("that end in the middle are not taken for whole", async () => {
    const cut = `${CHAT}content-length: 5000\r\n\r\n${valid}`;
    const received = await exchange(cut, { half: true });
    for (const { status } of answersIn(received)) expect(status).toBe(400);
    const line = dial();
    line.socket.write(cut);
    await sleep(50);
    line.socket.destroy();
  });

  test("with a second request behind them are not smuggled past the first", async () => {
    const hidden = `GET /v1/sessions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`;
    const kept = CHAT.replace("close", "keep-alive");
    const answers = answersIn(await exchange(`${kept}content-length: ${valid.length}\r\n\r\n${valid}${hidden}`));
    // The second one is a request of its own, with a key of its own, which it has not.
    expect(answers.map(({ status }) => status)).toEqual([200, 401]);
  });
});

describe("crowds", () => {
  test("of pipelined requests are all answered, in order", async () => {
    const kept = `GET /v1/models HTTP/1.1\r\n${AUTH}\r\n`;
    const line =
      kept.repeat(150) + kept.replace("v1/models", "v1/nothing").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    const statuses = answersIn(await exchange(line)).map(({ status }) => status);
    expect(statuses).toHaveLength(151);
    expect(statuses.at(-1)).toBe(404);
    expect(new Set(statuses.slice(0, -1))).toEqual(new Set([200]));
  });

  test("of garbage behind a request cut nobody's answer in two", async () => {
    const kept = `GET /v1/models HTTP/1.1\r\n${AUTH}\r\n`;
    const received = await exchange(`${kept}\u0000\u0001garbage\r\n\r\n`);
    for (const { status } of answersIn(received)) expect([200, 400]).toContain(status);
  });

  test("of idle and half-closed connections keep nobody out", async () => {
    const lines = Array.from({ length: 300 }, () => dial());
    for (const [index, { socket }] of lines.entries()) {
      if (index % 3 === 1) socket.write("GET /health HTTP/1.1\r\nhost:");
      if (index % 3 === 2) socket.end();
    }
    await target.unharmed();
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
    await inTime(Promise.all(lines.map(({ closed }) => closed)), "idle connections");
    for (const { socket } of lines) socket.destroy();
  });

  test("of clients that hang up in the middle leave no work behind", async () => {
    const body = JSON.stringify({ messages: [user("Hi")], max_tokens: 12, ignore_eos: true, n: 8, stream: true });
    const leaving = Array.from({ length: 40 }, async (_, index) => {
      const { socket } = dial();
      socket.write(`${CHAT}content-length: ${body.length}\r\n\r\n${body}`);
      await sleep(index * 2);
      if (index % 2 === 0) socket.resetAndDestroy();
      else socket.destroy();
    });
    await Promise.all(leaving);
    const running = async (): Promise<string | undefined> => {
      const text = await (await fetch(`${server.url}/metrics`, { headers: MALLORY })).text();
      return /^precis_jobs_(?:running|queued) [1-9].*$/m.exec(text)?.[0];
    };
    // Some requests may still be on their way, so it must stay quiet.
    let quiet = 0;
    for (let i = 0; i < 300 && quiet < 10; i++) {
      quiet = (await running()) === undefined ? quiet + 1 : 0;
      await sleep(20);
    }
    expect(quiet).toBe(10);
  });
});
