/** @file Servers that share a store: one session, used through all of them, behaves as on a single server. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MemoryStore, PostgresStore, PrecisError, RedisStore, type SessionStore } from "#precis/index.js";
import type { ServerOptions } from "#precis/server/options.js";
import type { Fixture } from "../conformance/fixtures.js";
import { postgresProgram, redisProgram, startPostgres, startRedis, type TestServer } from "../stores/servers.js";
import { SHORT, testServer, textOf, tinyFixture, user, type Answer, type TestServer as Server } from "./fixture.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await tinyFixture();
});
afterAll(() => fixture[Symbol.asyncDispose]());

const say = (on: Server, session: string, content: string): Promise<Answer> =>
  on.post("/v1/chat/completions", { ...SHORT, session, messages: [user(content)] });
const stepsOf = ({ body }: Answer): number => (body["usage"] as { memory: { steps: number } }).memory.steps;

/** Two servers, each with a connection of its own to the sessions of `store`. */
function pair(store: MemoryStore, limits: ServerOptions["limits"] = {}): [Server, Server] {
  return [
    testServer(fixture, { store: store.connect(), limits }),
    testServer(fixture, { store: store.connect(), limits }),
  ];
}

const KINDS: Readonly<Record<string, { program: string | undefined; start: () => Promise<TestServer> }>> = {
  Redis: { program: redisProgram, start: () => startRedis() },
  PostgreSQL: { program: postgresProgram, start: startPostgres },
};

describe.for(Object.keys(KINDS))("two servers and one %s", (kind) => {
  const { program, start } = KINDS[kind]!;
  let server: TestServer;
  beforeAll(async () => {
    if (program !== undefined) server = await start();
  });
  afterAll(() => server?.stop());
  const connect = (): Promise<SessionStore> =>
    kind === "Redis"
      ? RedisStore.open(`redis://127.0.0.1:${server.port}`)
      : PostgresStore.open(`postgres://postgres@127.0.0.1:${server.port}/postgres`);

  test.skipIf(program === undefined)(
    "hammered on one session lose no turn, refuse none, and answer as one would",
    async () => {
      const stores = [await connect(), await connect()];
      const servers = stores.map((store) => testServer(fixture, { store }));
      await servers[0]!.post("/v1/sessions", { id: "hammered", method: "ccm-concat" });
      const clients = Array.from({ length: 6 }, (_, client) => client);
      const turns: { step: number; content: string; text: string; server: number }[] = [];
      const work = async (client: number): Promise<void> => {
        for (let i = 0; i < 5; i++) {
          const content = `Client ${client}, turn ${i}`;
          const answer = await say(servers[client % 2]!, "hammered", content);
          expect(answer.body.error).toBeUndefined();
          turns.push({ step: stepsOf(answer), content, text: textOf(answer), server: client % 2 });
        }
      };
      await Promise.all(clients.map(work));
      turns.sort((a, b) => a.step - b.step);
      expect(turns.map(({ step }) => step)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
      const memory = await fixture.memory({ method: "ccm-concat" });
      for (const { content, text } of turns) {
        expect((await memory.answer([user(content)], { maxTokens: 5, ignoreEos: true })).text).toBe(text);
      }
      // Nobody is kept out for long: short turns may follow each other while the other server looks, but not all of them.
      const runs = turns
        .map(({ server: by }) => by)
        .join("")
        .match(/0+|1+/g)!;
      expect(Math.max(...runs.slice(0, -1).map((run) => run.length))).toBeLessThanOrEqual(10);
      for (const on of servers) {
        expect((await on.get("/v1/sessions/hammered")).body).toMatchObject({ step: 30 });
        await on.app.close();
      }
      await Promise.all(stores.map((store) => store.close()));
    },
  );
});

describe("a session on another server", () => {
  test("is there at once, as it is now, and gone when it was deleted", async () => {
    const [one, two] = pair(new MemoryStore());
    expect((await two.get("/v1/sessions")).body["data"]).toEqual([]);
    await one.post("/v1/sessions", { id: "moving", method: "ccm-concat", metadata: { who: "me" } });
    expect((await two.post("/v1/sessions", { id: "moving" })).body.error?.code).toBe("session_exists");
    expect(stepsOf(await say(two, "moving", "a"))).toBe(1);
    expect((await one.get("/v1/sessions/moving")).body).toMatchObject({ step: 1, metadata: { who: "me" } });
    expect(stepsOf(await say(one, "moving", "b"))).toBe(2);
    const listed = (await two.get("/v1/sessions")).body["data"] as { id: string; step: number }[];
    expect(listed).toMatchObject([{ id: "moving", step: 2 }]);
    const back = await two.post("/v1/sessions/moving/rewind", { step: 1 });
    expect(back.body).toMatchObject({ step: 1 });
    expect(stepsOf(await say(one, "moving", "c"))).toBe(2);
    await two.call("DELETE", "/v1/sessions/moving");
    expect((await say(one, "moving", "d")).body.error?.code).toBe("session_not_found");
    expect((await one.get("/v1/sessions")).body["data"]).toEqual([]);
  });

  test("goes on from a response that the first one gave, and both may branch from it", async () => {
    const [one, two] = pair(new MemoryStore());
    await two.get("/v1/sessions");
    const ask = (on: Server, input: string, previous?: unknown): Promise<Answer> =>
      on.post("/v1/responses", { input, max_output_tokens: 4, previous_response_id: previous });
    const first = await ask(one, "My cat is Ada.");
    const second = await ask(two, "Who?", first.body["id"]);
    expect(second.status).toBe(200);
    const third = await ask(one, "Who?", second.body["id"]);
    expect(third.status).toBe(200);
    // The first server may learn only now that the conversation went on from here.
    const again = await ask(one, "Who?", first.body["id"]);
    const branch = again.status === 409 ? await ask(one, "Who?", first.body["id"]) : again;
    expect(branch.body["output"]).toMatchObject([
      { content: (second.body["output"] as { content: { text: string }[] }[])[0]!.content },
    ]);
  });

  test("is found by a response's id without a look at any other session", async () => {
    const shared = new MemoryStore();
    const asked: string[] = [];
    const watched = new Proxy(shared.connect(), {
      get: (store, name: keyof SessionStore) => {
        const method = store[name] as (...given: unknown[]) => unknown;
        return (...given: unknown[]) => {
          if (name === "get" || name === "list") asked.push(`${name} ${(given[0] as { id?: string }).id ?? ""}`);
          return method.apply(store, given);
        };
      },
    });
    const [one, two] = [testServer(fixture, { store: shared }), testServer(fixture, { store: watched })];
    await two.get("/v1/sessions");
    for (let i = 0; i < 5; i++) await one.post("/v1/responses", { input: `Other ${i}`, max_output_tokens: 1 });
    const given = await one.post("/v1/responses", { input: "This one", max_output_tokens: 1 });
    const id = given.body["id"] as string;
    asked.length = 0;
    expect((await two.get(`/v1/responses/${id}`)).body).toEqual(given.body);
    expect(asked).toEqual([expect.stringMatching(/^get conv_/)]);
    expect((await two.get(`/v1/responses/${id}`)).body).toEqual(given.body);
    expect(asked).toHaveLength(1);
    // Ids that nobody gave cost no more.
    for (const unknown of [`${id}x`, id.replace(/resp_./, "resp_z"), "resp_0123456789abcdef01234567", "..", "x"]) {
      asked.length = 0;
      expect((await two.get(`/v1/responses/${unknown}`)).status).toBe(404);
      expect(asked.length).toBeLessThanOrEqual(1);
    }
  });

  test("is found by the id of a response from before ids named sessions", async () => {
    const store = new MemoryStore();
    const given = await testServer(fixture, { store }).post("/v1/responses", { input: "Old", max_output_tokens: 1 });
    const id = given.body["id"] as string;
    const key = { namespace: "default", id: id.slice(id.indexOf("conv_")) };
    const old = "resp_0123456789abcdef01234567";
    const { bytes, metadata, version } = (await store.get(key))!;
    await store.put(key, { bytes, metadata: JSON.parse(JSON.stringify(metadata).replaceAll(id, old)) }, version);
    const later = testServer(fixture, { store });
    expect((await later.get(`/v1/responses/${old}`)).body["id"]).toBe(old);
    const next = await later.post("/v1/responses", { input: "?", max_output_tokens: 1, previous_response_id: old });
    expect(next.status).toBe(200);
  });

  test("is waited for, and after too long with 429 and when to try again", async () => {
    const store = new MemoryStore();
    const [one] = pair(store, { sessionWaitMs: 150 });
    await one.post("/v1/sessions", { id: "held", method: "ccm-concat" });
    const lease = await store.acquireLease({ namespace: "default", id: "held" }, "another", 60_000);
    const refused = await say(one, "held", "a");
    expect(refused.status).toBe(429);
    expect(refused.body.error?.code).toBe("session_busy");
    expect(refused.headers.get("retry-after")).toBe("1");
    const waiting = say(one, "held", "a");
    await sleep(50);
    await store.releaseLease(lease);
    expect(stepsOf(await waiting)).toBe(1);
    // Neither lease is left behind.
    const held = await store.acquireLease({ namespace: "default", id: "held" }, "another", 1000);
    await store.acquireLease({ namespace: "default", id: "held.next" }, "another", 1000);
    await store.releaseLease(held);
  });

  test("is free again when the server that worked on it died", async () => {
    const store = new MemoryStore();
    const [one] = pair(store);
    await one.post("/v1/sessions", { id: "left", method: "ccm-concat" });
    for (const id of ["left", "left.next"]) {
      await store.acquireLease({ namespace: "default", id }, "a dead one", 200);
    }
    expect(stepsOf(await say(one, "left", "a"))).toBe(1);
  });

  test("is given up where the lease is lost, and nothing of the turn is kept", async () => {
    const store = new MemoryStore();
    const shared = store.connect();
    shared.renewLease = () => Promise.reject(new PrecisError("LEASE_LOST", "Too late."));
    const one = testServer(fixture, { store: shared, limits: { leaseMs: 60 } });
    await one.post("/v1/sessions", { id: "slow", method: "full" });
    const body = { session: "slow", messages: [user("a")], max_tokens: 1500, ignore_eos: true };
    const lost = await one.post("/v1/chat/completions", body);
    expect(lost.status).toBe(503);
    expect(lost.body.error?.code).toBe("session_lease_lost");
    expect((await one.get("/v1/sessions/slow")).body).toMatchObject({ step: 0 });
    expect(stepsOf(await say(one, "slow", "b"))).toBe(1);
  });

  test("that wrote past a lost lease is not overwritten", async () => {
    const store = new MemoryStore();
    const late = store.connect();
    const put = late.put.bind(late);
    let meanwhile = async (): Promise<void> => undefined;
    late.put = async (key, value, expected) => {
      if (key.id === "shared") await meanwhile();
      return put(key, value, expected);
    };
    const one = testServer(fixture, { store: late, limits: { leaseMs: 60_000 } });
    const two = testServer(fixture, { store: store.connect() });
    await one.post("/v1/sessions", { id: "shared", method: "ccm-concat" });
    meanwhile = async () => {
      meanwhile = async () => undefined;
      // As if the lease had ended, another server was faster.
      const key = { namespace: "default", id: "shared" };
      const current = await store.get(key);
      await store.put(key, current!, current!.version);
    };
    const conflict = await say(one, "shared", "a");
    expect(conflict.status).toBe(409);
    expect(conflict.body.error?.code).toBe("store_conflict");
    expect(conflict.headers.get("retry-after")).toBe("1");
    expect(stepsOf(await say(one, "shared", "b"))).toBe(1);
    expect(stepsOf(await say(two, "shared", "c"))).toBe(2);
  });
});
