/** @file Sessions that only grow: each turn writes what is new of them, and their states share the rest. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { MemoryStore, PrecisError, type SessionKey, type SessionValue } from "#precis/index.js";
import type { Fixture } from "../conformance/fixtures.js";
import { SHORT, testServer, textOf, tinyFixture, user, type Answer, type TestServer } from "./fixture.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await tinyFixture();
});
afterAll(() => fixture[Symbol.asyncDispose]());

/** Tokens of a complete run of rows. */
const RUN = 128;

/** A store that notes how many bytes are written, and may fail. */
class WatchedStore extends MemoryStore {
  written: { id: string; bytes: number }[] = [];
  failsAt: RegExp | undefined;

  override async put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    if (this.failsAt?.test(key.id) === true) {
      throw new PrecisError("STORE_UNAVAILABLE", "The disk is full.");
    }
    this.written.push({ id: key.id, bytes: value.bytes.length });
    return super.put(key, value, expected);
  }
}

async function idsOf(store: MemoryStore): Promise<string[]> {
  return [...(await store.list({ namespace: "default", limit: 1000 })).ids];
}

/** The runs that lie in the store. */
async function runsOf(store: MemoryStore): Promise<string[]> {
  return (await idsOf(store)).filter((id) => /\.\d+-[0-9a-f]{32}$/.test(id));
}

const make = (on: TestServer, id: string, method = "full"): Promise<Answer> => on.post("/v1/sessions", { id, method });
const append = (on: TestServer, id: string, tokens: number, letter = "x"): Promise<Answer> =>
  on.post(`/v1/sessions/${id}/append`, { text: letter.repeat(tokens) });
const ask = async (on: TestServer, id: string): Promise<string> =>
  textOf(await on.post("/v1/chat/completions", { ...SHORT, session: id, messages: [user("?")] }));

async function snapshotOf(on: TestServer, id: string): Promise<Buffer> {
  const response = await on.app.request(`/v1/sessions/${id}/snapshot`);
  expect(response.status).toBe(200);
  return Buffer.from(await response.arrayBuffer());
}

/** A server that has just started, on the same sessions. */
function restarted(store: MemoryStore, limits = {}): TestServer {
  return testServer(fixture, { store: store.connect(), limits });
}

test("a turn writes a long history no more than once", async () => {
  const store = new WatchedStore();
  const server = testServer(fixture, { store });
  await make(server, "long");
  await append(server, "long", 6 * RUN);
  const whole = (await store.get({ namespace: "default", id: "long" }))!;
  expect(whole.metadata["states"]).toHaveLength(1);
  store.written = [];
  await ask(server, "long");
  const bytes = store.written.reduce((sum, piece) => sum + piece.bytes, 0);
  // The tail is less than a run; the header of a snapshot has some bytes per token.
  expect(bytes).toBeLessThan(2 * RUN * fixture.model.info.bytesPerSlot);
  expect(await runsOf(store)).toHaveLength(6);
});

test("another server goes on from it as if it had never moved", async () => {
  const store = new MemoryStore();
  const [one, two] = [testServer(fixture, { store }), testServer(fixture, { store: store.connect() })];
  const alone = testServer(fixture);
  for (const on of [one, alone]) {
    await make(on, "moving");
    await append(on, "moving", 3 * RUN - 7);
  }
  for (const on of [one, two, one, two]) expect(await ask(on, "moving")).toBe(await ask(alone, "moving"));
  const snapshot = await snapshotOf(one, "moving");
  expect(snapshot.equals(await snapshotOf(alone, "moving"))).toBe(true);
  const memory = await fixture.model.restoreMemory(snapshot);
  expect((await memory.stats()).steps).toBe(5);
});

test("going back and on keeps each state whole, and leaves nothing that none needs", async () => {
  const store = new MemoryStore();
  const server = testServer(fixture, { store });
  await make(server, "turning");
  await append(server, "turning", 2 * RUN);
  await append(server, "turning", 2 * RUN, "y");
  expect(await runsOf(store)).toHaveLength(4);
  await server.post("/v1/sessions/turning/rewind", { step: 1 });
  expect(await runsOf(store)).toHaveLength(2);
  await append(server, "turning", 2 * RUN, "z");
  expect(await runsOf(store)).toHaveLength(4);
  const later = restarted(store);
  for (const step of [1, 2]) {
    expect((await later.post("/v1/sessions/turning/fork", { step, id: `fork${step}` })).status).toBe(201);
    expect((await later.get(`/v1/sessions/fork${step}`)).body).toMatchObject({
      memory: { tokens_seen: 2 * step * RUN },
    });
  }
  for (const id of ["turning", "fork1", "fork2"]) await later.call("DELETE", `/v1/sessions/${id}`);
  expect(await idsOf(store)).toEqual([]);
});

test("states beyond those that are kept leave the runs that later ones share", async () => {
  const store = new MemoryStore();
  const limits = { checkpoints: 1 };
  const server = testServer(fixture, { store, limits });
  await make(server, "forgetful");
  for (const letter of "abcd") await append(server, "forgetful", RUN, letter);
  expect(await runsOf(store)).toHaveLength(4);
  const later = await snapshotOf(restarted(store, limits), "forgetful");
  expect(later.equals(await snapshotOf(server, "forgetful"))).toBe(true);
  expect((await fixture.model.restoreMemory(later)).method).toBe("full");
});

test("a save that fails half-way leaves the state before it, and its left-overs go with time", async () => {
  const store = new WatchedStore();
  const server = testServer(fixture, { store });
  await make(server, "failing");
  await append(server, "failing", RUN);
  const [before, snapshot] = [await idsOf(store), await snapshotOf(server, "failing")];
  // The run is written, the snapshot that names it is not.
  store.failsAt = /^failing\.2-[0-9a-f]{12}$/;
  for (const letter of "yyz") expect((await append(server, "failing", RUN, letter)).status).toBe(503);
  store.failsAt = undefined;
  expect((await idsOf(store)).filter((id) => !before.includes(id))).toEqual([
    expect.stringMatching(/^failing\.2-[0-9a-f]{32}$/),
    expect.stringMatching(/^failing\.2-[0-9a-f]{32}$/),
  ]);
  expect((await snapshotOf(restarted(store), "failing")).equals(snapshot)).toBe(true);
  expect((await append(server, "failing", RUN, "y")).status).toBe(200);
  expect(await runsOf(store)).toHaveLength(3);
  const after = await snapshotOf(restarted(store), "failing");
  expect(after.equals(await snapshotOf(server, "failing"))).toBe(true);
  expect((await (await fixture.model.restoreMemory(after)).stats()).tokensSeen).toBe(2 * RUN);
  expect(await runsOf(store)).toHaveLength(2);
});

test("a run that is missing or damaged is refused, not guessed", async () => {
  const store = new WatchedStore();
  const server = testServer(fixture, { store });
  await make(server, "broken");
  await append(server, "broken", 2 * RUN);
  const [run] = await runsOf(store);
  const key = { namespace: "default", id: run! };
  const { bytes, version } = (await store.get(key))!;
  bytes[100] ^= 1;
  await store.put(key, { bytes, metadata: {} }, version);
  const damaged = await restarted(store).post("/v1/chat/completions", {
    ...SHORT,
    session: "broken",
    messages: [user("?")],
  });
  expect(damaged).toMatchObject({ status: 409, body: { error: { code: "session_unreadable" } } });
  await store.delete(key);
  expect((await restarted(store).app.request("/v1/sessions/broken/snapshot")).status).toBe(500);
});

test("memories that change what they hold are saved in one piece", async () => {
  const store = new MemoryStore();
  const server = testServer(fixture, { store });
  await make(server, "window", "sliding-window");
  await append(server, "window", 4 * RUN);
  expect(await runsOf(store)).toEqual([]);
});
