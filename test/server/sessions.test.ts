/** @file Sessions over HTTP: they remember, can be copied, turned back, moved and deleted. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MemoryStore, PrecisError } from "#precis/index.js";
import type { Fixture } from "../conformance/fixtures.js";
import { SHORT, testServer, textOf, tinyFixture, user, type Answer, type TestServer } from "./fixture.js";

let fixture: Fixture;
let server: TestServer;
beforeAll(async () => {
  fixture = await tinyFixture();
  server = testServer(fixture);
});
afterAll(() => fixture[Symbol.asyncDispose]());

const say = (session: string, content: string, on: TestServer = server): Promise<Answer> =>
  on.post("/v1/chat/completions", { ...SHORT, session, messages: [user(content)] });
const stepOf = ({ body }: Answer): unknown => body["step"];

describe("a session", () => {
  test("is made with a method, an adapter and options, and shows them", async () => {
    const made = await server.post("/v1/sessions", {
      id: "made",
      method: "streaming",
      options: { window: 32 },
      metadata: { who: "me" },
    });
    expect(made.status).toBe(201);
    expect(made.body).toMatchObject({
      id: "made",
      object: "session",
      model: "tiny",
      method: "streaming",
      options: { window: 32, sink: 4 },
      metadata: { who: "me" },
      step: 0,
      memory: { slots: 0 },
    });
    const other = await server.post("/v1/sessions", { method: "ccm-concat" });
    expect(other.body).toMatchObject({ adapter: "ccm", method: "ccm-concat" });
    expect(other.body["id"]).toMatch(/^sess_[0-9a-f]{24}$/);
  });

  test("goes on with only the new turn, as the library's memory does", async () => {
    await server.post("/v1/sessions", { id: "talk", method: "ccm-concat" });
    const memory = await fixture.memory({ method: "ccm-concat" });
    for (const content of ["First", "Second", "Third"]) {
      const wanted = await memory.answer([user(content)], { maxTokens: 5, ignoreEos: true });
      const answer = await say("talk", content);
      expect(textOf(answer)).toBe(wanted.text);
      expect(answer.body).toMatchObject({ session: "talk", usage: { memory: { slots: wanted.stats.slots } } });
    }
    expect((await server.get("/v1/sessions/talk")).body).toMatchObject({ step: 3, memory: { slots: 6 } });
  });

  test("takes in messages and texts, a time step each", async () => {
    await server.post("/v1/sessions", { id: "read", method: "ccm-concat" });
    const messages = [user("One."), { role: "assistant", content: "Two." }];
    expect(stepOf(await server.post("/v1/sessions/read/append", { messages }))).toBe(2);
    expect(stepOf(await server.post("/v1/sessions/read/append", { text: ["a", "b", "c"] }))).toBe(5);
    expect(stepOf(await server.post("/v1/sessions/read/append", { text: "d" }))).toBe(6);
  });

  test("keeps nothing of what fails half way", async () => {
    await server.post("/v1/sessions", { id: "whole", method: "full" });
    const failed = await server.post("/v1/sessions/whole/append", { text: ["fits", "x".repeat(3000)] });
    expect(failed.body.error?.code).toBe("context_length_exceeded");
    expect((await server.get("/v1/sessions/whole")).body).toMatchObject({ step: 0, memory: { tokens_seen: 0 } });
  });

  test("is forked, and both go on on their own", async () => {
    await server.post("/v1/sessions", { id: "trunk", method: "ccm-concat" });
    await say("trunk", "Shared");
    const fork = await server.post("/v1/sessions/trunk/fork", { id: "branch" });
    expect(fork.status).toBe(201);
    expect(fork.body).toMatchObject({ parent: "trunk", step: 1, method: "ccm-concat" });
    expect(textOf(await say("branch", "Same"))).toBe(textOf(await say("trunk", "Same")));
    await say("branch", "Only here");
    expect((await server.get("/v1/sessions/trunk")).body["step"]).toBe(2);
  });

  test("is turned back to an earlier step, and says the same again from there", async () => {
    await server.post("/v1/sessions", { id: "back", method: "ccm-concat" });
    await say("back", "One");
    const two = textOf(await say("back", "Two"));
    await say("back", "Three");
    const rewound = await server.post("/v1/sessions/back/rewind", { step: 1 });
    expect(rewound.body).toMatchObject({ step: 1, checkpoints: [{ step: 1 }] });
    expect(textOf(await say("back", "Two"))).toBe(two);
    const early = await server.post("/v1/sessions/back/fork", { step: 1 });
    expect(textOf(await say(early.body["id"] as string, "Two"))).toBe(two);
    const empty = await server.post("/v1/sessions/back/rewind", { step: 0 });
    expect(empty.body).toMatchObject({ step: 0, memory: { slots: 0 }, checkpoints: [] });
    const missing = await server.post("/v1/sessions/back/rewind", { step: 9 });
    expect(missing.status).toBe(409);
    expect(missing.body.error).toMatchObject({ code: "step_not_kept", param: "step" });
  });

  test("keeps as many earlier steps as it may", async () => {
    const small = testServer(fixture, { limits: { checkpoints: 2 } });
    await small.post("/v1/sessions", { id: "few", method: "ccm-concat" });
    for (const content of ["a", "b", "c", "d"]) await say("few", content, small);
    const { body } = await small.get("/v1/sessions/few");
    expect((body["checkpoints"] as { step: number }[]).map(({ step }) => step)).toEqual([2, 3, 4]);
  });

  test("is exported and imported, here and elsewhere", async () => {
    await server.post("/v1/sessions", { id: "moved", method: "ccm-concat" });
    await say("moved", "Remember");
    const snapshot = await server.app.request("/v1/sessions/moved/snapshot");
    expect(snapshot.headers.get("content-type")).toBe("application/octet-stream");
    const bytes = await snapshot.arrayBuffer();
    const elsewhere = testServer(fixture);
    const imported = await elsewhere.app.request("/v1/sessions/import?id=arrived", {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: bytes,
    });
    expect(imported.status).toBe(201);
    expect(await imported.json()).toMatchObject({ id: "arrived", method: "ccm-concat", adapter: "ccm", step: 1 });
    expect(textOf(await say("arrived", "What?", elsewhere))).toBe(textOf(await say("moved", "What?")));
  });

  test("is deleted with everything of it", async () => {
    const store = new MemoryStore();
    const own = testServer(fixture, { store });
    await own.post("/v1/sessions", { id: "gone", method: "ccm-concat" });
    await say("gone", "a", own);
    await say("gone", "b", own);
    expect((await own.call("DELETE", "/v1/sessions/gone")).body).toMatchObject({ id: "gone", deleted: true });
    expect((await own.get("/v1/sessions/gone")).status).toBe(404);
    expect((await say("gone", "c", own)).body.error?.code).toBe("session_not_found");
    expect((await store.list({ namespace: "default" })).ids).toEqual([]);
    expect(await own.metric("precis_memory_bytes")).toBe(0);
  });

  test("takes one turn at a time, in the order in which they came", async () => {
    await server.post("/v1/sessions", { id: "queue", method: "ccm-concat" });
    const answers = await Promise.all(["a", "b", "c"].map((content) => say("queue", content)));
    const steps = answers.map(({ body }) => (body["usage"] as { memory: { steps: number } }).memory.steps);
    expect(steps).toEqual([1, 2, 3]);
  });

  test("with too many waiting turns away the rest", async () => {
    const narrow = testServer(fixture, { limits: { queuePerSession: 1 } });
    await narrow.post("/v1/sessions", { id: "busy", method: "ccm-concat" });
    const answers = await Promise.all(["a", "b", "c"].map((content) => say("busy", content, narrow)));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 429]);
    const refused = answers.find(({ status }) => status === 429);
    expect(refused?.body.error?.code).toBe("session_busy");
    expect(Number(refused?.headers.get("retry-after"))).toBeGreaterThan(0);
  });
});

test("sessions are listed page by page, without those that arose by themselves", async () => {
  const own = testServer(fixture);
  for (const id of ["a", "b", "c", "d", "e"]) await own.post("/v1/sessions", { id });
  await own.post("/v1/chat/completions", { ...SHORT, messages: [user("Hi")] });
  const seen: string[] = [];
  let after = "";
  for (;;) {
    const { body } = await own.get(`/v1/sessions?limit=2&order=asc${after === "" ? "" : `&after=${after}`}`);
    seen.push(...(body["data"] as { id: string }[]).map(({ id }) => id));
    after = body["last_id"] as string;
    if (body["has_more"] !== true) break;
  }
  expect(seen).toEqual(["a", "b", "c", "d", "e"]);
});

describe("the store", () => {
  test("has all that a new server needs to go on", async () => {
    const store = new MemoryStore();
    const before = testServer(fixture, { store: store.connect() });
    await before.post("/v1/sessions", { id: "lasting", method: "ccm-concat" });
    await say("lasting", "One", before);
    const chat = { ...SHORT, messages: [user("Free")] };
    const free = textOf(await before.post("/v1/chat/completions", chat));
    await before.app.close();
    const after = testServer(fixture, { store: store.connect() });
    expect((await after.get("/v1/sessions/lasting")).body).toMatchObject({ step: 1, resident: false });
    const memory = await fixture.memory({ method: "ccm-concat" });
    await memory.answer([user("One")], { maxTokens: 5, ignoreEos: true });
    const wanted = await memory.answer([user("Two")], { maxTokens: 5, ignoreEos: true });
    expect(textOf(await say("lasting", "Two", after))).toBe(wanted.text);
    const messages = [user("Free"), { role: "assistant", content: free }, user("?")];
    const next = await after.post("/v1/chat/completions", { ...SHORT, messages });
    expect((next.body as { timings: { cache_n: number } }).timings.cache_n).toBeGreaterThan(5);
  });

  test("takes sessions that the engine has no room for, and gives them back unchanged", async () => {
    const { bytesPerSlot } = fixture.model.info;
    const tight = testServer(fixture, { limits: { memoryBytes: 80 * bytesPerSlot } });
    const wide = testServer(fixture);
    for (const on of [tight, wide]) {
      for (const id of ["p", "q", "r"])
        await on.post("/v1/sessions", { id, method: "streaming", options: { window: 16 } });
    }
    for (const content of ["one", "two", "three"]) {
      for (const id of ["p", "q", "r"]) {
        expect(textOf(await say(id, content, tight))).toBe(textOf(await say(id, content, wide)));
      }
    }
    expect(await tight.metric("precis_sessions_restored")).toBeGreaterThan(3);
    expect(await wide.metric("precis_sessions_restored")).toBe(0);
    const large = await say("p", "x".repeat(200), tight);
    expect(large.status).toBe(400);
    expect(large.body.error?.code).toBe("memory_budget_exceeded");
  });

  test("that fails refuses turns without keeping anything of them, until it works again", async () => {
    const store = new MemoryStore();
    let broken = false;
    const flaky = store.connect();
    const put = flaky.put.bind(flaky);
    flaky.put = async (...args) => {
      if (broken) throw new PrecisError("STORE_UNAVAILABLE", "The disk is full.");
      return put(...args);
    };
    const logged: string[] = [];
    const own = testServer(fixture, { store: flaky, log: ({ event }) => logged.push(event) });
    await own.post("/v1/sessions", { id: "held", method: "ccm-concat" });
    await say("held", "a", own);
    broken = true;
    const refused = await say("held", "b", own);
    expect(refused.status).toBe(503);
    expect(refused.body.error?.code).toBe("store_unavailable");
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await own.post("/v1/sessions/held/append", { text: "x" })).status).toBe(503);
    expect((await own.post("/v1/sessions", { id: "unmade" })).status).toBe(503);
    expect((await own.post("/v1/sessions/held/fork", { id: "unmade" })).status).toBe(503);
    expect(logged).toContain("save-failed");
    expect((await own.get("/v1/sessions/held")).body["step"]).toBe(1);
    expect((await own.get("/v1/sessions/unmade")).status).toBe(404);
    broken = false;
    const memory = await fixture.memory({ method: "ccm-concat" });
    for (const content of ["a", "c"]) {
      const wanted = await memory.answer([user(content)], { maxTokens: 5, ignoreEos: true });
      if (content === "c") expect(textOf(await say("held", "c", own))).toBe(wanted.text);
    }
    expect((await own.post("/v1/sessions", { id: "unmade" })).status).toBe(201);
    await own.app.close();
    const after = testServer(fixture, { store: store.connect() });
    expect((await after.get("/v1/sessions/held")).body["step"]).toBe(2);
  });

  test("that fails does not keep conversations from being answered that are sent in full", async () => {
    const store = new MemoryStore();
    const own = testServer(fixture, { store });
    await own.get("/v1/sessions");
    store.put = () => Promise.reject(new PrecisError("STORE_UNAVAILABLE", "The disk is full."));
    const first = await own.post("/v1/chat/completions", { ...SHORT, messages: [user("Hi")] });
    expect(first.status).toBe(200);
    const messages = [user("Hi"), { role: "assistant", content: textOf(first) }, user("And?")];
    expect((await own.post("/v1/chat/completions", { ...SHORT, messages, n: 2 })).status).toBe(200);
    expect(await own.metric("precis_memory_bytes")).toBe(0);
    expect((await own.post("/v1/responses", { input: "Hi", max_output_tokens: 3 })).status).toBe(503);
  });

  test("is cleared of snapshots that a server left when it died", async () => {
    const store = new MemoryStore();
    const before = testServer(fixture, { store: store.connect() });
    await before.post("/v1/sessions", { id: "crashed", method: "ccm-concat" });
    for (const content of ["a", "b"]) await say("crashed", content, before);
    const { ids } = await store.list({ namespace: "default" });
    for (const id of ["crashed.2-0123456789ab", "crashed.3-0123456789ab"]) {
      await store.put({ namespace: "default", id }, { bytes: new Uint8Array(1), metadata: {} }, undefined);
    }
    await testServer(fixture, { store: store.connect() }).get("/v1/sessions");
    // The next number may belong to a turn that is being saved at this moment.
    expect((await store.list({ namespace: "default" })).ids).toEqual([...ids, "crashed.3-0123456789ab"].sort());
    await before.call("DELETE", "/v1/sessions/crashed");
    expect((await store.list({ namespace: "default" })).ids).toEqual([]);
  });
});

test("automatic sessions are few, and the longest unused goes first", async () => {
  const store = new MemoryStore();
  const own = testServer(fixture, { store, limits: { automaticSessions: 3 } });
  for (const content of ["a", "b", "c", "d", "e"]) {
    await own.post("/v1/chat/completions", { ...SHORT, messages: [user(content)] });
  }
  const { ids } = await store.list({ namespace: "default" });
  expect(ids.filter((id) => !id.includes("."))).toHaveLength(3);
});
