/** @file What one key's clients say and keep: never another's, not by its name, not by any detour, not in logs and metrics. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { MemoryStore } from "#precis/index.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { tinyFixture, user } from "../fixture.js";
import {
  ALICE,
  errorOf,
  expectCivil,
  hostileTarget,
  jsonRequest,
  MALLORY,
  SECRET,
  send,
  type Answered,
  type Target,
} from "./support.js";

let fixture: Fixture;
let target: Target;
let store: MemoryStore;
beforeAll(async () => {
  fixture = await tinyFixture();
  store = new MemoryStore();
  target = await hostileTarget(fixture, { store });
});
afterAll(() => fixture[Symbol.asyncDispose]());

function as(key: Record<string, string>, method: string, path: string, body?: object): Promise<Answered> {
  return send(target.app, path, jsonRequest(method, body && JSON.stringify(body), key));
}

function jsonOf({ text }: Answered): Record<string, unknown> {
  return JSON.parse(text) as Record<string, unknown>;
}

/** Everything that may go on from, copy or show something by its id. */
function detours(id: unknown): [method: string, path: string, body?: object][] {
  const messages = [user("?")];
  return [
    ["GET", `/v1/sessions/${id}`],
    ["GET", `/v1/sessions/${id}/memory`],
    ["GET", `/v1/sessions/${id}/memory?step=1`],
    ["GET", `/v1/sessions/${id}/snapshot`],
    ["POST", `/v1/sessions/${id}/fork`, {}],
    ["POST", `/v1/sessions/${id}/fork`, { step: 1, id: "stolen" }],
    ["POST", `/v1/sessions/${id}/rewind`, { step: 0 }],
    ["POST", `/v1/sessions/${id}/append`, { text: "x" }],
    ["POST", `/v1/sessions/${id}/attention`, { messages }],
    ["DELETE", `/v1/sessions/${id}`],
    ["GET", `/v1/responses/${id}`],
    ["DELETE", `/v1/responses/${id}`],
    ["POST", "/v1/chat/completions", { session: id, messages }],
    ["POST", "/v1/chat/completions", { session: id, messages, stream: true }],
    ["POST", "/v1/completions", { session: id, prompt: "?" }],
    ["POST", "/v1/responses", { conversation: id, input: "?" }],
    ["POST", "/v1/responses", { conversation: { id }, input: "?" }],
    ["POST", "/v1/responses", { previous_response_id: id, input: "?" }],
    ["POST", "/v1/responses", { previous_response_id: id, input: "?", stream: true, store: false }],
  ];
}

test("another key's ids answer as if they did not exist", async () => {
  const response = jsonOf(await as(ALICE, "POST", "/v1/responses", { input: SECRET, max_output_tokens: 2 }));
  const fork = jsonOf(await as(ALICE, "POST", "/v1/sessions/diary/fork", {}));
  // Sessions of conversations and responses have ids, too.
  const { ids } = await store.list({ namespace: "alice", limit: 1000 });
  const hidden = ids.filter((id) => !id.includes("."));
  expect(hidden.length).toBeGreaterThanOrEqual(3);
  for (const id of [...hidden, response["id"], fork["id"]]) {
    for (const [method, path, body] of detours(id)) {
      const theirs = await as(MALLORY, method, path, body);
      const about = `${method} ${path} ${JSON.stringify(body)}`;
      expectCivil(theirs, about);
      expect(theirs.status, about).toBe(404);
      // Word for word what an id gets that nobody has.
      const none = String(id).replaceAll(/[a-z0-9]/g, "q");
      const unknown = await as(
        MALLORY,
        method,
        path.replace(String(id), none),
        body && (JSON.parse(JSON.stringify(body).replaceAll(String(id), none)) as object),
      );
      expect(JSON.stringify(errorOf(theirs)).replaceAll(String(id), none), about).toBe(
        JSON.stringify(errorOf(unknown)),
      );
    }
  }
  await target.unharmed();
  expect(jsonOf(await as(ALICE, "GET", `/v1/responses/${String(response["id"])}`))["id"]).toBe(response["id"]);
});

test("a response's id opens nothing to another key that has a session of the name in it", async () => {
  for (const key of [ALICE, MALLORY]) await as(key, "POST", "/v1/sessions", { id: "letters", method: "full" });
  const ask = { conversation: "letters", input: SECRET, max_output_tokens: 2 };
  const { id } = jsonOf(await as(ALICE, "POST", "/v1/responses", ask));
  expect(id).toMatch(/_letters$/);
  for (const [method, path, body] of [
    ["GET", `/v1/responses/${String(id)}`],
    ["DELETE", `/v1/responses/${String(id)}`],
    ["POST", "/v1/responses", { previous_response_id: id, input: "?" }],
  ] as const) {
    expect(errorOf(await as(MALLORY, method, path, body)).code).toBe("response_not_found");
  }
  expect((await as(MALLORY, "DELETE", "/v1/sessions/letters")).status).toBe(200);
  expect((await as(ALICE, "GET", `/v1/responses/${String(id)}`)).status).toBe(200);
});

test("the same words said by two keys are two memories", async () => {
  const messages = [user(SECRET), { role: "assistant", content: "x" }, user("Who?")];
  const body = { messages, max_tokens: 3, memory: { method: "full" } };
  const usage = (answer: Answered): unknown =>
    (jsonOf(answer)["usage"] as { prompt_tokens_details: { cached_tokens: number } }).prompt_tokens_details
      .cached_tokens;
  expect(usage(await as(ALICE, "POST", "/v1/chat/completions", body))).toBe(0);
  const more = {
    ...body,
    messages: [...messages.slice(0, 2), user("Who?"), { role: "assistant", content: "" }, user("?")],
  };
  expect(usage(await as(MALLORY, "POST", "/v1/chat/completions", body))).toBe(0);
  expect(usage(await as(MALLORY, "POST", "/v1/chat/completions", more))).toBe(0);
});

test("an id in use by another key is free, and an import under it stays the importer's", async () => {
  const snapshot = await target.app.request("/v1/sessions/diary/snapshot", { headers: ALICE });
  const bytes = await snapshot.arrayBuffer();
  const headers = { ...MALLORY, "content-type": "application/octet-stream" };
  // Who has the bytes has the memory; that is what they are for. The name is not shared.
  const imported = await send(target.app, "/v1/sessions/import?id=diary", { method: "POST", headers, body: bytes });
  expect(imported.status).toBe(201);
  await as(MALLORY, "POST", "/v1/sessions/diary/append", { text: "x" });
  await as(MALLORY, "DELETE", "/v1/sessions/diary");
  await target.unharmed();
});

test("logs and metrics hold neither texts nor keys", async () => {
  const wrong = { authorization: "Bearer sk-guessed-8901" };
  const stop = { stop: [SECRET], metadata: { note: SECRET } };
  for (const key of [ALICE, MALLORY, wrong]) {
    for (const [method, path, body] of detours("diary")) {
      if (method === "DELETE") continue;
      const asked = key === ALICE && path.endsWith("rewind") ? { step: 1 } : body;
      await as(key, method, path, asked && { ...asked, ...(key === ALICE ? {} : { text: SECRET }) });
    }
    await as(key, "POST", "/v1/responses", { ...stop, input: SECRET, instructions: SECRET, max_output_tokens: 2 });
    await as(key, "POST", "/v1/chat/completions", { ...stop, model: SECRET, messages: [user(SECRET)] });
    await as(key, "POST", "/v1/chat/completions", { messages: [{ role: SECRET, content: SECRET }], stream: true });
    await as(key, "POST", "/v1/chat/completions", { messages: [user(SECRET.repeat(300))], stream: true });
    await as(key, "GET", `/v1/nothing?key=${encodeURIComponent(SECRET)}`);
    await send(target.app, "/v1/sessions", jsonRequest("POST", `{"id": "${SECRET}`, key));
  }
  const metrics = (await send(target.app, "/metrics", { headers: MALLORY })).text;
  expect(metrics).toContain("precis_http_requests_total");
  for (const text of [metrics, target.logged()]) {
    for (const word of ["Zebulon", "canary", "sk-alice", "sk-mallory", "sk-guessed"]) expect(text).not.toContain(word);
  }
  // Names of sessions and namespaces are no labels either.
  for (const word of ["diary", "alice"]) expect(metrics).not.toContain(word);
});
