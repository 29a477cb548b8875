/** @file `precis ingest` and `precis worker` as people run them; also where a worker is killed in the middle. */
import { writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FileStore } from "#precis/stores/file-store.js";
import { RedisStore } from "#precis/stores/redis-store.js";
import type { SessionStore } from "#precis/stores/store.js";
import { writeRandomModel } from "../reference/random-model.js";
import { redisProgram, startRedis, type TestServer } from "../stores/servers.js";
import { precis, start, testFolder } from "./precis.js";

const folder = testFolder();
let model: string[];
beforeAll(() => {
  writeRandomModel(folder("tiny"), { layers: 2, hiddenSize: 32, seed: 3 });
  model = [
    "--model",
    folder("tiny"),
    "--device",
    "cpu",
    "--threads",
    "1",
    "--method",
    "streaming",
    "--set",
    "window=64",
  ];
  const prose = Array.from({ length: 400 }, (_, i) => `Fact ${i} is told here. `).join("");
  writeFileSync(folder("facts.txt"), prose);
  writeFileSync(folder("history.json"), JSON.stringify([{ role: "user", content: "Hello" }]));
});

interface Stored {
  steps: number;
  chain: string;
}
/** How far a session is, and the hash of all that it was told. */
async function stored(store: SessionStore, id: string): Promise<Stored | undefined> {
  const found = await store.get({ namespace: "default", id });
  const states = (found?.metadata["states"] ?? []) as unknown as { stats: { steps: number }; chain: string }[];
  const head = states.at(-1);
  return head && { steps: head.stats.steps, chain: head.chain };
}

const files = (): string[] => [folder("facts.txt"), folder("history.json")];

test("files are taken into a session of a folder, once", async () => {
  const args = [...files(), "--session", "reader", "--store", folder("sessions"), ...model, "--json"];
  const first = await precis(["ingest", ...args]);
  expect({ code: first.code, stderr: first.stderr }).toEqual({ code: 0, stderr: "" });
  const result = JSON.parse(first.stdout) as { documents: number; steps: number };
  expect(result.documents).toBe(2);
  const store = new FileStore(folder("sessions"));
  expect(await stored(store, "reader")).toMatchObject({ steps: result.steps });
  await store.close();
  const again = await precis(["ingest", ...args.filter((arg) => arg !== "--json")]);
  expect(again.stdout).toBe("Session reader has all of it already.\n");
});

test.each([
  ["no files", ["--session", "reader"], "OPTION_INVALID"],
  ["no session", ["FILE"], "OPTION_INVALID"],
  ["a session with a path in its id", ["FILE", "--session", "../x"], "INPUT_INVALID"],
  ["a job without a queue", ["--status", "ingest-1"], "OPTION_INVALID"],
  ["a queue that is not there", ["FILE", "--session", "s", "--queue", "redis://127.0.0.1:1"], "STORE_UNAVAILABLE"],
])("%s: refused before a model is loaded", async (_name, args, code) => {
  const given = args.map((arg) => (arg === "FILE" ? folder("facts.txt") : arg));
  const { stderr } = await precis(["ingest", "--model", folder("nowhere"), ...given]);
  expect(stderr).toMatch(new RegExp(`^error \\[${code}\\]`));
});

if (redisProgram === undefined) {
  test.skip("redis-server and valkey-server are not installed: apt-get install redis-server", () => undefined);
}
describe.skipIf(redisProgram === undefined)("workers", () => {
  let server: TestServer;
  let url: string;
  beforeAll(async () => {
    server = await startRedis();
    url = `redis://127.0.0.1:${server.port}`;
  });
  afterAll(() => server.stop());

  test("finish the job of one that was killed, and nothing is taken in twice", async () => {
    await precis(["ingest", ...files(), "--session", "straight", "--store", url, ...model]);
    const options = ["--queue", url, "--stalled", "1.5", ...model, "--json"];
    const first = start(["worker", ...options]);
    await first.seen(/"event":"working"/);
    const added = await precis(["ingest", ...files(), "--session", "reader", "--queue", url, "--json"]);
    const { id } = JSON.parse(added.stdout) as { id: string };
    await first.seen(/"event":"job-progress"/);
    first.child.kill("SIGKILL");
    await first.finished;

    const store = await RedisStore.open(url);
    const held = await stored(store, "reader");
    expect(held?.steps).toBeGreaterThan(0);
    const second = start(["worker", ...options]);
    await second.seen(/"event":"job-completed"/);
    const wanted = await stored(store, "straight");
    expect(held?.steps).toBeLessThan(wanted?.steps as number);
    expect(await stored(store, "reader")).toEqual(wanted);
    const { stdout } = await precis(["ingest", "--queue", url, "--status", id, "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ state: "completed", session: "reader" });

    second.child.kill("SIGTERM");
    const { code, stderr } = await second.finished;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    await store.close();
  });

  test("tell whoever waits how it went", async () => {
    const worker = start(["worker", "--queue", url, ...model]);
    await worker.seen(/working/);
    const waited = await precis(["ingest", folder("history.json"), "--session", "waited", "--queue", url, "--wait"]);
    expect(waited.code).toBe(0);
    expect(waited.stdout).toMatch(
      /^ingest-\w+: completed.*\nSession waited took in 1 documents: 1 steps, \d+ tokens\.\n/,
    );
    const odd = ["--session", "odd", "--queue", url, "--wait", "--method", "odd"];
    const failed = await precis(["ingest", folder("history.json"), ...odd]);
    expect(failed.code).toBe(2);
    expect(failed.stderr).toMatch(/^error \[INPUT_INVALID\]: The job failed: .*odd/);
    worker.child.kill("SIGTERM");
    expect((await worker.finished).code).toBe(0);
  });
});
