/** @file Tricks in paths: ids that are paths, and paths that lead out of the page's folder. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { fc } from "../../property.js";
import { FileStore } from "#precis/index.js";
import { listen, type Listening } from "#precis/server/listen.js";
import { readPage } from "#precis/server/page.js";
import { ROUTES } from "#precis/server/routes/table.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { tinyFixture } from "../fixture.js";
import {
  ALICE,
  expectCivil,
  hostileTarget,
  inTime,
  MALLORY,
  SECRET,
  tries,
  type Answered,
  type Target,
} from "./support.js";

/** Lies beside the page's folder and the store, where no request may get. */
const OUTSIDE = "What lies outside.";

let fixture: Fixture;
let target: Target;
let folder: string;
let server: Listening;
let responseId: string;
beforeAll(async () => {
  fixture = await tinyFixture();
  folder = mkdtempSync(join(tmpdir(), "precis-paths-"));
  mkdirSync(join(folder, "page", "assets"), { recursive: true });
  writeFileSync(join(folder, "page", "index.html"), "<title>Page</title>");
  writeFileSync(join(folder, "page", "assets", "a.js"), "a()");
  writeFileSync(join(folder, "secret.html"), OUTSIDE);
  writeFileSync(join(folder, "page", ".env"), OUTSIDE);
  const store = new FileStore(join(folder, "store"));
  target = await hostileTarget(fixture, { store, page: await readPage(join(folder, "page")) });
  server = await listen(target.app, { host: "127.0.0.1", port: 0 });
  const body = JSON.stringify({ input: SECRET, max_output_tokens: 2 });
  const headers = { "content-type": "application/json", ...ALICE };
  const response = await target.app.request("/v1/responses", { method: "POST", headers, body });
  responseId = ((await response.json()) as { id: string }).id;
});
afterEach(() => target.unharmed());
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
  await fixture[Symbol.asyncDispose]();
});

/** Sends a path byte by byte as it is; `fetch` would tidy it up. */
function sendRaw(method: string, path: string, body?: string): Promise<Answered> {
  const work = new Promise<Answered>((resolve, reject) => {
    const headers = { ...MALLORY, ...(body === undefined ? {} : { "content-type": "application/json" }) };
    const request = httpRequest({ host: "127.0.0.1", port: server.port, method, path, headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => {
        const given = Object.entries(response.headers).map(([name, value]): [string, string] => [name, String(value)]);
        const text = Buffer.concat(chunks).toString("utf8");
        resolve({ status: response.statusCode ?? 0, headers: new Headers(given), text });
      });
    });
    request.on("error", reject);
    request.end(body);
  });
  return inTime(work, `${method} ${path}`);
}

const pieces = fc.constantFrom(
  "..",
  ".",
  "/",
  "%2f",
  "%2F",
  "%5c",
  "%2e%2e",
  "%252e%252e%252f",
  "%00",
  "%c0%af",
  "%ff",
  "%",
  "%zz",
  "%u002e",
  "%0d%0aset-cookie:x=1",
  "diary",
  "mine",
  ".next",
  ".1",
  "alice",
  "default",
  "__proto__",
  "constructor",
  "%EF%BC%8F",
  "%E2%80%AE",
  "e%CC%81",
  "%C3%A9",
  ";",
  "~",
  "*",
  "{id}",
  ":id",
  "secret.html",
  ".env",
  "etc/passwd",
  "a".repeat(3000),
);

const trick = fc.array(pieces, { minLength: 1, maxLength: 6 }).map((list) => list.join(""));

const named = ROUTES.filter(({ path }) => path.includes(":id"));

test("ids that are paths lead nowhere, on every route that takes one", async () => {
  const route = fc.constantFrom(...named);
  await fc.assert(
    fc.asyncProperty(route, trick, async ({ method, path, body }, id) => {
      const at = path.replace(/:id(\{[^}]*\})?/, id);
      const answer = await sendRaw(method.toUpperCase(), at, body && '{"text":"x","step":0}');
      const about = `${method} ${at.slice(0, 200)} → ${answer.status}`;
      expectCivil(answer, about);
      // None of the pieces makes something that the attacker has.
      expect([400, 404, 405], about).toContain(answer.status);
      expect(answer.text).not.toContain(SECRET);
      expect(answer.headers.get("set-cookie")).toBeNull();
    }),
    tries(300, 21),
  );
});

test("ids of another kind or another's are not found", async () => {
  const ids = [responseId, "diary", "alice/diary", "alice%2Fdiary", "diary.1", "diary.next", `${responseId}.1`];
  for (const { method, path, body } of named) {
    for (const id of ids) {
      const sent = body && JSON.stringify({ text: "x", step: 0, messages: [{ role: "user", content: "x" }] });
      const answer = await sendRaw(method.toUpperCase(), path.replace(/:id(\{[^}]*\})?/, id), sent);
      expectCivil(answer, `${method} ${path} ${id}`);
      expect([400, 404], `${method} ${path} ${id}`).toContain(answer.status);
      expect(answer.text).not.toContain(SECRET);
    }
  }
});

test("the page's files are all that is handed out", async () => {
  expect((await sendRaw("GET", "/assets/a.js")).text).toBe("a()");
  const start = fc.constantFrom("/", "//", "/assets/", "/assets/../", "/./", "/page/", "/v1/../", "\\");
  await fc.assert(
    fc.asyncProperty(start, trick, async (before, rest) => {
      const answer = await sendRaw("GET", `${before}${rest}`);
      expectCivil(answer, `${before}${rest}`.slice(0, 200));
      expect(answer.text).not.toContain(OUTSIDE);
      expect(answer.text).not.toContain("root:");
    }),
    tries(300, 22),
  );
});
