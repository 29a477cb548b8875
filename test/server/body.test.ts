/** @file Bodies that are traps: too deep to walk through, not UTF-8, compressed, or quoted back at full length. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Fixture } from "../conformance/fixtures.js";
import { testServer, tinyFixture, user, type TestServer } from "./fixture.js";

let fixture: Fixture;
let server: TestServer;
beforeAll(async () => {
  fixture = await tinyFixture();
  server = testServer(fixture);
});
afterAll(() => fixture[Symbol.asyncDispose]());

async function refusal(path: string, body: string | Uint8Array<ArrayBuffer>, headers = {}): Promise<unknown[]> {
  const sent = { "content-type": "application/json", ...headers };
  const response = await server.app.request(path, { method: "POST", headers: sent, body });
  const { error } = (await response.json()) as { error?: { code: string; next_step: string } };
  return [response.status, error?.code];
}

const deep = (levels: number): string => '{"a":'.repeat(levels) + "1" + "}".repeat(levels);

test.each([
  ["/v1/chat/completions", '"tools":[{"type":"function","function":{"name":"a","parameters":DEEP}}]'],
  ["/v1/responses", '"input":"a","text":{"format":{"type":"text","x":DEEP}}'],
  ["/v1/responses", '"input":"a","text":{"format":{"type":"json_object","schema":DEEP}}'],
])("%s refuses what is too deep to be checked or stored: %s", async (path, fields) => {
  const body = (levels: number): string =>
    `{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"max_output_tokens":1,${fields.replace("DEEP", deep(levels))}}`;
  expect(await refusal(path, body(20_000))).toEqual([400, "json_too_deep"]);
  expect((await refusal(path, body(60)))[1]).not.toBe("json_too_deep");
});

test("brackets in texts are no levels", async () => {
  const content = `${"[".repeat(200)}\\"${"{".repeat(200)}\\\\`;
  const body = `{"messages":[{"role":"user","content":"${content}"}],"max_tokens":1}`;
  expect(await refusal("/v1/chat/completions", body)).toEqual([200, undefined]);
});

test("bytes that are no UTF-8 are not read as something else", async () => {
  const [start, end] = JSON.stringify({ messages: [user("@")], max_tokens: 1 }).split("@") as [string, string];
  const bytes = new Uint8Array([...Buffer.from(start), 0xff, 0xfe, ...Buffer.from(end)]);
  expect(await refusal("/v1/chat/completions", bytes)).toEqual([400, "invalid_json"]);
});

test("compressed bodies are refused as such, snapshots too", async () => {
  const gzip = { "content-encoding": "gzip" };
  expect(await refusal("/v1/responses", "{}", gzip)).toEqual([415, "unsupported_content_encoding"]);
  const octets = { ...gzip, "content-type": "application/octet-stream" };
  expect(await refusal("/v1/sessions/import", "x", octets)).toEqual([415, "unsupported_content_encoding"]);
});

test("errors quote what was sent, but not megabytes of it", async () => {
  const model = "x".repeat(3_000_000);
  const { body, status } = await server.post("/v1/chat/completions", { model, messages: [user("a")] });
  expect(status).toBe(404);
  expect(body.error?.message).toMatch(/^There is no model "x+…$/);
  expect(JSON.stringify(body).length).toBeLessThan(2000);
});
