/** @file Many clients at once, some of which leave: nothing fails, nothing is stuck, and no more memory is held than allowed. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { fc } from "../property.js";
import { MemoryStore } from "#precis/index.js";
import type { Fixture } from "../conformance/fixtures.js";
import { SHORT, testServer, tinyFixture, user, type TestServer } from "./fixture.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await tinyFixture();
});
afterAll(() => fixture[Symbol.asyncDispose]());

type Step = { kind: string; id: string; leaveAfter: number | undefined; text: string };

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom("chat", "stream", "append", "fork", "rewind", "delete", "make", "full", "respond", "snapshot"),
  id: fc.constantFrom("a", "b", "c"),
  leaveAfter: fc.option(fc.integer({ min: 0, max: 30 }), { nil: undefined }),
  text: fc.constantFrom("x", "longer text of some words", "y".repeat(60)),
});

function requestOf({ kind, id, text }: Step): [method: string, path: string, body?: object] {
  const messages = [user(text)];
  if (kind === "chat") return ["POST", "/v1/chat/completions", { ...SHORT, session: id, messages, n: 2 }];
  if (kind === "stream") return ["POST", "/v1/chat/completions", { ...SHORT, session: id, messages, stream: true }];
  if (kind === "full") return ["POST", "/v1/chat/completions", { ...SHORT, messages }];
  if (kind === "respond") return ["POST", "/v1/responses", { input: text, conversation: id, max_output_tokens: 3 }];
  if (kind === "append") return ["POST", `/v1/sessions/${id}/append`, { text: [text, text] }];
  if (kind === "fork") return ["POST", `/v1/sessions/${id}/fork`, {}];
  if (kind === "rewind") return ["POST", `/v1/sessions/${id}/rewind`, { step: 1 }];
  if (kind === "snapshot") return ["GET", `/v1/sessions/${id}/snapshot`];
  if (kind === "delete") return ["DELETE", `/v1/sessions/${id}`];
  return ["POST", "/v1/sessions", { id, method: "ccm-concat" }];
}

/** Sends a request, leaves if it is to, and reads what comes. @returns the status; 499 for one that was left */
async function send({ app }: TestServer, wanted: Step): Promise<number> {
  const [method, path, body] = requestOf(wanted);
  const leave = new AbortController();
  const timer = wanted.leaveAfter === undefined ? undefined : setTimeout(() => leave.abort(), wanted.leaveAfter);
  const response = await app.request(path, {
    method,
    signal: leave.signal,
    ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
  });
  const text = await response.text();
  clearTimeout(timer);
  const streamed = /"code":"([a-z_]+)"/.exec(text)?.[1];
  if (response.status === 200 && streamed !== undefined) return streamed === "client_closed_request" ? 499 : 500;
  return response.status;
}

test("random requests side by side", { timeout: 120_000 }, async () => {
  const { bytesPerSlot } = fixture.model.info;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      const limits = { memoryBytes: 400 * bytesPerSlot, concurrency: 3, automaticSessions: 3, checkpoints: 2 };
      const logged: unknown[] = [];
      const store = new MemoryStore();
      const server = testServer(fixture, { store, limits, log: (record) => logged.push(record) });
      for (const id of ["a", "b"]) await server.post("/v1/sessions", { id, method: "ccm-concat" });
      const statuses = await Promise.all(steps.map((wanted) => send(server, wanted)));
      for (const status of statuses) expect([200, 201, 400, 404, 409, 429, 499]).toContain(status);
      expect(await server.metric("precis_jobs_running")).toBe(0);
      expect(await server.metric("precis_jobs_queued")).toBe(0);
      expect(await server.metric("precis_memory_bytes")).toBeLessThanOrEqual(limits.memoryBytes);
      // What is left can be used, here and by a server that begins with the store.
      await server.post("/v1/sessions", { id: "a", method: "ccm-concat" });
      for (const on of [server, testServer(fixture, { store })]) {
        const answer = await on.post("/v1/chat/completions", { ...SHORT, session: "a", messages: [user("?")] });
        expect(answer.status).toBe(200);
      }
      await server.app.close();
      expect(logged.filter((record) => (record as { level: string }).level === "error")).toEqual([]);
    }),
    { numRuns: 25, seed: 3 },
  );
});
