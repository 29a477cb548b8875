/** @file What a session holds, over HTTP: slots, where they come from, and what a turn looks at. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Fixture } from "../conformance/fixtures.js";
import { SHORT, testServer, textOf, tinyFixture, user, type Answer, type TestServer } from "./fixture.js";

let fixture: Fixture;
let server: TestServer;
beforeAll(async () => {
  fixture = await tinyFixture();
  server = testServer(fixture);
});
afterAll(() => fixture[Symbol.asyncDispose]());

const say = (session: string, content: string): Promise<Answer> =>
  server.post("/v1/chat/completions", { ...SHORT, session, messages: [user(content)] });
const slotsOf = ({ body }: Answer): { kind: string; steps: number[]; tokens: number[] }[] => body["slots"] as never;

describe("the memory of a session", () => {
  test("names the step and the tokens of each slot, now and at an earlier step", async () => {
    await server.post("/v1/sessions", { id: "slots", method: "ccm-concat" });
    expect((await server.get("/v1/sessions/slots/memory")).body).toMatchObject({ step: 0, layers: 2, slots: [] });
    for (const content of ["First", "Second"]) await say("slots", content);
    const now = await server.get("/v1/sessions/slots/memory");
    expect(now.body).toMatchObject({ object: "session.memory", step: 2, memory: { slots: 4, method: "ccm-concat" } });
    const seen = (now.body["memory"] as { tokens_seen: number }).tokens_seen;
    expect(slotsOf(now).map(({ kind, steps }) => [kind, ...steps])).toEqual([
      ["memory", 1, 1],
      ["memory", 1, 1],
      ["memory", 2, 2],
      ["memory", 2, 2],
    ]);
    expect(slotsOf(now)[3]?.tokens[1]).toBe(seen);
    const earlier = await server.get("/v1/sessions/slots/memory?step=1");
    expect(slotsOf(earlier)).toEqual(slotsOf(now).slice(0, 2));
    expect((await server.get("/v1/sessions/slots/memory?step=0")).body).toMatchObject({ step: 0, slots: [] });
  });

  test("of a step that is not kept is refused", async () => {
    await server.post("/v1/sessions", { id: "short", method: "full" });
    await say("short", "One");
    const answer = await server.get("/v1/sessions/short/memory?step=7");
    expect(answer.status).toBe(409);
    expect(answer.body.error?.code).toBe("step_not_kept");
    expect((await server.get("/v1/sessions/short/memory?step=x")).status).toBe(400);
    expect((await server.get("/v1/sessions/nobody/memory")).body.error?.code).toBe("session_not_found");
  });
});

describe("the attention of a turn", () => {
  test("is the library's, for the memory before the turn, and is not remembered", async () => {
    await server.post("/v1/sessions", { id: "looked", method: "ccm-concat" });
    const memory = await fixture.memory({ method: "ccm-concat" });
    await say("looked", "First");
    await memory.answer([user("First")], { maxTokens: 5, ignoreEos: true });
    const answer = textOf(await say("looked", "Second"));
    const wanted = await memory.attention([user("Second")], { answer });
    const before = await server.get("/v1/sessions/looked");
    const found = await server.post("/v1/sessions/looked/attention", { messages: [user("Second")], answer, step: 1 });
    expect(found.body).toMatchObject({ object: "session.attention", step: 1, tokens: wanted.tokens });
    const layers = found.body["layers"] as number[][];
    expect(layers.map((shares) => shares.length)).toEqual([2, 2]);
    wanted.layers.forEach((shares, layer) =>
      shares.forEach((share, slot) => expect(layers[layer]?.[slot]).toBeCloseTo(share, 5)),
    );
    const after = await server.get("/v1/sessions/looked");
    expect({ ...after.body, resident: null }).toEqual({ ...before.body, resident: null });
  });

  test("of a question that was not asked yet is that on the present memory", async () => {
    await server.post("/v1/sessions", { id: "asking", method: "full" });
    await say("asking", "First");
    const { body } = await server.post("/v1/sessions/asking/attention", { messages: [user("What if")] });
    expect(body).toMatchObject({ step: 1 });
    const [shares = []] = body["layers"] as number[][];
    const [own = 0] = body["own"] as number[];
    expect(shares.reduce((sum, share) => sum + share, own)).toBeCloseTo(1, 4);
    expect((await server.get("/v1/sessions/asking")).body).toMatchObject({ step: 1 });
  });
});
