/** @file The page at `/`: how its files are handed out, and that it opens nothing else. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readPage } from "#precis/server/page.js";
import type { Fixture } from "../conformance/fixtures.js";
import { testServer, tinyFixture, user, type TestServer } from "./fixture.js";

let fixture: Fixture;
let server: TestServer;
beforeAll(async () => {
  fixture = await tinyFixture();
  const folder = join(fixture.scratch, "page");
  mkdirSync(join(folder, "assets"), { recursive: true });
  writeFileSync(join(folder, "index.html"), "<!doctype html><title>Page</title>");
  writeFileSync(join(folder, "icon.svg"), "<svg/>");
  writeFileSync(join(folder, "assets", "main-1a2b.js"), "export {};");
  writeFileSync(join(folder, "assets", "notes.txt"), "not of a type that pages have");
  server = testServer(fixture, { page: await readPage(folder), keys: [{ key: "sk-one", namespace: "one" }] });
});
afterAll(() => fixture[Symbol.asyncDispose]());

describe("the page", () => {
  test("is there for everybody, allows itself nothing from elsewhere, and is asked for again each time", async () => {
    const response = await server.app.request("/");
    expect(response.status).toBe(200);
    expect(await response.text()).toContain("<title>Page</title>");
    expect(response.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect(response.headers.get("cache-control")).toBe("no-cache");
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
    const policy = response.headers.get("content-security-policy");
    for (const rule of ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]) {
      expect(policy).toContain(rule);
    }
    expect(policy).not.toContain("unsafe");
  });

  test("is not sent twice where it has not changed", async () => {
    const etag = (await server.app.request("/")).headers.get("etag") ?? "";
    const again = await server.app.request("/", { headers: { "if-none-match": etag } });
    expect([again.status, await again.text()]).toEqual([304, ""]);
  });

  test("has assets that browsers may keep", async () => {
    const script = await server.app.request("/assets/main-1a2b.js");
    expect(script.headers.get("content-type")).toBe("text/javascript; charset=utf-8");
    expect(script.headers.get("cache-control")).toContain("immutable");
    expect((await server.app.request("/icon.svg")).headers.get("content-type")).toBe("image/svg+xml");
  });

  test.each(["/assets/notes.txt", "/assets/../package.json", "/assets/%2e%2e/package.json", "/index.htm", "/assets"])(
    "has nothing at %s",
    async (path) => expect((await server.app.request(path)).status).toBe(404),
  );

  test("still needs a key for what it asks for", async () => {
    expect((await server.get("/v1/models")).status).toBe(401);
  });

  test("may call the server under whatever name it was opened, and other pages may not", async () => {
    const call = async (origin: string): Promise<number> => {
      const headers = { host: "memory.example:8080", origin, authorization: "Bearer sk-one" };
      return (await server.post("/v1/chat/completions", { messages: [user("Hi")], max_tokens: 1 }, headers)).status;
    };
    expect(await call("http://memory.example:8080")).toBe(200);
    expect(await call("http://memory.example:9090")).toBe(403);
    expect(await call("http://other.example")).toBe(403);
  });

  test("that is not built says how to get it; without one there is no such route", async () => {
    const missing = testServer(fixture, { page: await readPage(join(fixture.scratch, "nowhere")) });
    const hint = await missing.app.request("/");
    expect([hint.status, await hint.text()]).toEqual([404, expect.stringContaining("npm run build")]);
    expect((await testServer(fixture).get("/")).body.error?.code).toBe("route_not_found");
  });
});
