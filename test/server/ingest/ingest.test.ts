/** @file Bulk reading: the same memory as reading piece by piece, each document once, cut off or not, beside a server or not. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createApp, type ServerApp } from "#precis/server/app.js";
import { newDocument, readDocument } from "#precis/server/ingest/documents.js";
import { ingest, type IngestEnvironment, type IngestProgress, type IngestTask } from "#precis/server/ingest/ingest.js";
import { piecesOf, type Piece } from "#precis/server/ingest/pieces.js";
import { DEFAULT_LIMITS } from "#precis/server/options.js";
import { MemoryStore } from "#precis/stores/memory-store.js";
import type { SessionStore } from "#precis/stores/store.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { servedTiny, tinyFixture, user } from "../fixture.js";
import { tracesOn } from "../../traces.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await tinyFixture();
});
afterAll(() => fixture[Symbol.asyncDispose]());

let store: SessionStore;
let environment: IngestEnvironment;
beforeEach(() => {
  store = new MemoryStore();
  environment = {
    served: servedTiny(fixture),
    store,
    limits: DEFAULT_LIMITS,
    precision: "fp32",
    holder: "test",
  };
});

/** A text of as many sentences. */
const prose = (sentences: number): string =>
  Array.from({ length: sentences }, (_, i) => `Fact ${i} is told here. `).join("");

const taskOf = (documents: IngestTask["documents"], more: Partial<IngestTask> = {}): IngestTask => ({
  namespace: "default",
  session: "reader",
  documents,
  stepTokens: 40,
  setup: { method: "streaming", options: { window: 64 } },
  ...more,
});

const get = async (app: ServerApp, path: string): Promise<Record<string, unknown>> =>
  (await (await app.request(path)).json()) as Record<string, unknown>;
const post = (app: ServerApp, path: string, body: unknown): Promise<Response> =>
  Promise.resolve(
    app.request(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
const snapshot = async (app: ServerApp, id: string): Promise<Buffer> =>
  Buffer.from(await (await app.request(`/v1/sessions/${id}/snapshot`)).arrayBuffer());

async function pieces(text: string, stepTokens: number, from = 0): Promise<Piece[]> {
  // Tokens of the tiny model are bytes.
  const countTokens = (part: string): Promise<number> => Promise.resolve(Buffer.byteLength(part));
  const cut: Piece[] = [];
  for await (const piece of piecesOf(newDocument("text", text), from, { stepTokens, countTokens })) cut.push(piece);
  return cut;
}

describe("a text is cut", () => {
  test("at sentences, and nothing of it is lost or told twice", async () => {
    const text = prose(20);
    const cut = await pieces(text, 60);
    expect(cut.map(({ input }) => input).join("")).toBe(text);
    expect(cut.at(-1)?.end).toBe(text.length);
    for (const { input } of cut) expect((input as string).length).toBeLessThanOrEqual(60);
    for (const { input } of cut.slice(0, -1)) expect(input).toMatch(/here\. $/);
  });

  test("within sentences that are too long, and within words that are", async () => {
    const text = `${"word ".repeat(30)}${"x".repeat(95)} 😀😀😀`;
    const cut = await pieces(text, 20);
    expect(cut.map(({ input }) => input).join("")).toBe(text);
    expect(Math.max(...cut.map(({ input }) => (input as string).length))).toBeLessThanOrEqual(20);
  });

  test("from where it was taken in", async () => {
    const text = prose(8);
    const [first] = await pieces(text, 60);
    const rest = await pieces(text, 60, first?.end);
    expect((first?.input as string) + rest.map(({ input }) => input).join("")).toBe(text);
  });
});

describe("documents", () => {
  const file = (name: string, content: string | Uint8Array): string => {
    const path = join(fixture.scratch, name);
    writeFileSync(path, content);
    return path;
  };
  const history = [user("One"), { role: "assistant", content: "Two" }];

  test.each([
    ["an array", "a.json", JSON.stringify(history)],
    ["an object with messages", "b.json", JSON.stringify({ messages: history, more: 1 })],
    ["a message a line", "c.jsonl", history.map((message) => JSON.stringify(message)).join("\n")],
    ["a compressed file", "d.jsonl.gz", gzipSync(`${JSON.stringify({ messages: history })}\n`)],
  ])("have messages in %s, and are the same whatever they are called", async (_name, name, content) => {
    expect(await readDocument(file(name, content))).toEqual({ ...newDocument("other", history), name });
  });

  test.each([
    ["a missing file", () => "/nowhere/at-all.txt", "FILE_NOT_FOUND"],
    ["what is no UTF-8", () => file("bytes.txt", Buffer.from([0xff, 0xfe, 0x00])), "FILE_INVALID"],
    ["an empty text", () => file("empty.txt", " \n"), "INPUT_INVALID"],
    ["what is no message", () => file("odd.json", '[{"role": "user"}]'), "FILE_INVALID"],
    ["broken JSON", () => file("broken.json", "[{"), "FILE_INVALID"],
  ])("refuse %s", async (_name, path, code) => {
    await expect(readDocument(path())).rejects.toMatchObject({ code });
  });
});

describe("taking in", () => {
  test("makes the memory that reading the pieces makes, and a server goes on with it", async () => {
    const text = prose(12);
    const seen: IngestProgress[] = [];
    const documents = [newDocument("facts.txt", text), newDocument("history", [user("Hello")])];
    const result = await ingest(environment, taskOf(documents), { onProgress: (progress) => seen.push(progress) });
    const cut = await pieces(text, 40);
    expect(result).toMatchObject({ documents: 2, steps: cut.length + 1, memory: { steps: cut.length + 1 } });
    expect(seen.at(-1)).toMatchObject({ done: text.length + 5, total: text.length + 5, document: "history" });

    const app = createApp([servedTiny(fixture)], { store });
    await post(app, "/v1/sessions", { id: "straight", method: "streaming", options: { window: 64 } });
    await post(app, "/v1/sessions/straight/append", { text: cut.map(({ input }) => input) });
    await post(app, "/v1/sessions/straight/append", { messages: [user("Hello")] });
    expect((await snapshot(app, "reader")).equals(await snapshot(app, "straight"))).toBe(true);
    const turn = { messages: [user("And?")], max_tokens: 5, ignore_eos: true };
    const answers = [];
    for (const session of ["reader", "straight"]) {
      const answer = (await (await post(app, "/v1/chat/completions", { ...turn, session })).json()) as {
        choices: { message: unknown }[];
      };
      answers.push(answer.choices[0]?.message);
    }
    expect(answers[0]).toEqual(answers[1]);
  });

  test("passes over what the session has, also after a server went on with it, and in a branch of it", async () => {
    const documents = [newDocument("facts.txt", prose(12))];
    const first = await ingest(environment, taskOf(documents));
    const again = await ingest(environment, taskOf(documents));
    expect(again).toMatchObject({ documents: 0, steps: 0, tokens: 0, memory: first.memory });
    const app = createApp([servedTiny(fixture)], { store });
    await post(app, "/v1/chat/completions", { session: "reader", messages: [user("x")], max_tokens: 3 });
    await post(app, "/v1/sessions/reader/fork", { id: "branch" });
    expect(await ingest(environment, taskOf(documents))).toMatchObject({ steps: 0 });
    const branch = taskOf([...documents, newDocument("more", "More.")], { session: "branch" });
    expect(await ingest(environment, branch)).toMatchObject({ documents: 1, steps: 1 });
  });

  test("takes in again what the session was turned back before", async () => {
    await ingest(environment, taskOf([newDocument("first", "First.")]));
    await ingest(environment, taskOf([newDocument("second", "Second.")]));
    const app = createApp([servedTiny(fixture)], { store });
    expect((await post(app, "/v1/sessions/reader/rewind", { step: 1 })).status).toBe(200);
    const both = taskOf([newDocument("first", "First."), newDocument("second", "Second.")]);
    expect(await ingest(environment, both)).toMatchObject({ documents: 1, steps: 1, memory: { steps: 2 } });
  });

  test("that is cut off goes on where it was saved, and ends as if it had not been", async () => {
    const documents = [newDocument("facts.txt", prose(100))];
    await ingest(environment, taskOf(documents, { session: "straight" }));
    const cut = new AbortController();
    const run = ingest(environment, taskOf(documents), { signal: cut.signal, onProgress: () => cut.abort() });
    await expect(run).rejects.toMatchObject({ code: "ABORTED" });
    const rest = await ingest(environment, taskOf(documents));
    expect(rest.steps).toBeGreaterThan(0);
    expect(rest.steps).toBeLessThan(rest.memory.steps);
    const app = createApp([servedTiny(fixture)], { store });
    expect((await snapshot(app, "reader")).equals(await snapshot(app, "straight"))).toBe(true);
  });

  test("leaves nothing on its signal, however many states it saves", async () => {
    const { signal } = new AbortController();
    const traces: number[] = [];
    const onProgress = (): unknown => traces.push(tracesOn(signal));
    await ingest(environment, taskOf([newDocument("facts.txt", prose(200))]), { signal, onProgress });
    expect(traces.length).toBeGreaterThan(2);
    expect([...traces, tracesOn(signal)]).toEqual([...traces.map(() => 0), 0]);
  });

  test("lets a server answer in the session meanwhile, and neither loses anything", async () => {
    const app = createApp([servedTiny(fixture)], { store });
    await post(app, "/v1/sessions", { id: "reader", method: "streaming", options: { window: 64 } });
    const answered: Promise<Response>[] = [];
    const text = prose(200);
    const turn = { session: "reader", messages: [user("Now?")], max_tokens: 3, ignore_eos: true };
    await ingest(environment, taskOf([newDocument("facts.txt", text)]), {
      onProgress: () => answered.push(post(app, "/v1/chat/completions", turn)),
    });
    const statuses = (await Promise.all(answered)).map(({ status }) => status);
    expect(statuses.length).toBeGreaterThan(4);
    expect(statuses.every((status) => status === 200)).toBe(true);
    const other = createApp([servedTiny(fixture)], { store });
    const steps = (await pieces(text, 40)).length;
    expect((await get(other, "/v1/sessions/reader"))["step"]).toBe(steps + statuses.length);
    expect((await snapshot(other, "reader")).equals(await snapshot(app, "reader"))).toBe(true);
  });

  test("of one session is done by one at a time", async () => {
    const task = taskOf([newDocument("facts.txt", prose(30))]);
    const [one, two] = await Promise.allSettled([ingest(environment, task), ingest(environment, task)]);
    expect(one.status).toBe("fulfilled");
    expect(two).toMatchObject({ status: "rejected", reason: { code: "LEASE_HELD" } });
  });

  test("refuses a session of another model", async () => {
    await ingest(environment, taskOf([newDocument("first", "First.")]));
    const other = { ...environment, served: servedTiny(fixture, "other") };
    const refused = ingest(other, taskOf([newDocument("second", "Second.")]));
    await expect(refused).rejects.toMatchObject({ code: "OPTION_INVALID", message: /of the model "tiny"/ });
  });

  test("keeps no more earlier states than the limits say", async () => {
    const limited = { ...environment, limits: { checkpoints: 2, checkpointBytes: 2 ** 30 } };
    await ingest(limited, taskOf([newDocument("facts.txt", prose(300))]));
    const { ids } = await store.list({ namespace: "default" });
    expect(ids).toHaveLength(1 + 3);
    const app = createApp([servedTiny(fixture)], { store });
    expect((await get(app, "/v1/sessions/reader"))["checkpoints"]).toHaveLength(3);
  });
});

test("a running server finds a session that a worker made", async () => {
  const app = createApp([servedTiny(fixture)], { store });
  expect((await app.request("/v1/sessions/reader")).status).toBe(404);
  await ingest(environment, taskOf([newDocument("first", "First.")]));
  expect(await get(app, "/v1/sessions/reader")).toMatchObject({ step: 1, method: "streaming" });
  expect((await app.request("/v1/sessions/reader.1")).status).toBe(404);
});
