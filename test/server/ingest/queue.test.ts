/** @file Jobs on a real Redis: progress, retries, calling off, and workers that stop or die. */
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PrecisError } from "#precis/errors.js";
import { newDocument } from "#precis/server/ingest/documents.js";
import type { IngestEnvironment, IngestTask } from "#precis/server/ingest/ingest.js";
import { IngestQueue, jobId, type JobView } from "#precis/server/ingest/queue.js";
import { startWorker, type IngestWorker, type WorkerEvent } from "#precis/server/ingest/worker.js";
import { DEFAULT_LIMITS } from "#precis/server/options.js";
import { RedisStore } from "#precis/stores/redis-store.js";
import type { SessionStore } from "#precis/stores/store.js";
import type { Fixture } from "../../conformance/fixtures.js";
import { redisProgram, startRedis, type TestServer } from "../../stores/servers.js";
import { servedTiny, tinyFixture } from "../fixture.js";

test("a queue that is not there is said to be", async () => {
  await expect(IngestQueue.open("redis://127.0.0.1:1")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
});

if (redisProgram === undefined) {
  test.skip("redis-server and valkey-server are not installed: apt-get install redis-server", () => undefined);
}
describe.skipIf(redisProgram === undefined)("a queue in Redis", () => {
  let fixture: Fixture;
  let server: TestServer;
  let url: string;
  let store: SessionStore;
  let queue: IngestQueue;
  const workers: IngestWorker[] = [];
  const events: WorkerEvent[] = [];
  beforeAll(async () => {
    fixture = await tinyFixture();
    server = await startRedis();
    url = `redis://127.0.0.1:${server.port}`;
  });
  afterAll(async () => {
    await server.stop();
    await fixture[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    const redis = new Redis(url);
    await redis.flushall();
    redis.disconnect();
    store = await RedisStore.open(url);
    queue = await IngestQueue.open(url);
    events.length = 0;
  });
  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.close()));
    await queue[Symbol.asyncDispose]();
    await store.close();
  });

  /** Starts a worker, on the store or one that fails as told. */
  async function work(
    used: SessionStore = store,
    onEvent: (event: WorkerEvent) => void = () => undefined,
  ): Promise<void> {
    const environment: IngestEnvironment = {
      served: servedTiny(fixture),
      store: used,
      limits: DEFAULT_LIMITS,
      precision: "fp32",
      holder: "test",
    };
    const options = {
      concurrency: 2,
      stalledMs: 5000,
      onEvent: (event: WorkerEvent) => (events.push(event), onEvent(event)),
    };
    workers.push(await startWorker(url, environment, options));
  }

  const prose = (sentences: number): string =>
    Array.from({ length: sentences }, (_, i) => `Fact ${i} is told here. `).join("");
  const taskOf = (session: string, text: string, more: Partial<IngestTask> = {}): IngestTask => ({
    namespace: "default",
    session,
    documents: [newDocument("facts.txt", text)],
    stepTokens: 40,
    setup: { method: "streaming", options: { window: 64 } },
    ...more,
  });

  /** Waits until a job is in a state. */
  async function reached(id: string, state: JobView["state"]): Promise<JobView> {
    for (let i = 0; i < 400; i++) {
      const view = await queue.view(id);
      if (view.state === state) return view;
      await sleep(25);
    }
    throw new Error(
      `${id} is ${JSON.stringify(await queue.view(id))}, and these were the events: ${JSON.stringify(events)}`,
    );
  }
  const stepsOf = async (session: string): Promise<number> => {
    const found = await store.get({ namespace: "default", id: session });
    const states = found?.metadata["states"] as unknown as { stats: { steps: number } }[];
    return states.at(-1)?.stats.steps ?? 0;
  };

  test("a job is done once, says how far it is, and can be looked at afterwards", async () => {
    const task = taskOf("reader", prose(100));
    const id = await queue.add(task);
    expect(await queue.add(task)).toBe(id);
    expect(await queue.view(id)).toMatchObject({ state: "waiting", session: "reader" });
    await work();
    const { result, progress } = await reached(id, "completed");
    const { steps = 0, memory } = result ?? {};
    expect(steps).toBeGreaterThan(64);
    expect(memory?.steps).toBe(steps);
    expect(progress).toMatchObject({ document: "facts.txt", total: prose(100).length });
    expect(events.filter(({ event }) => event === "job-progress").length).toBeGreaterThan(2);
    expect(events.at(-1)?.event).toBe("job-completed");
    // The same again finds nothing to do.
    await queue.add(task);
    expect((await reached(id, "completed")).result).toMatchObject({ steps: 0, memory: { steps } });
    expect(await stepsOf("reader")).toBe(steps);
  });

  test("a job whose store fails for a while is tried again, and takes nothing in twice", async () => {
    let failures = 2;
    let writes = 0;
    // Some writes of the store pass before one fails, so that there is something that must not come twice.
    const flaky: SessionStore = new Proxy(store, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (typeof value !== "function") return value;
        if (name !== "put") return value.bind(target) as unknown;
        return (...args: Parameters<SessionStore["put"]>) => {
          writes++;
          if (writes % 4 !== 0 || failures === 0) return target.put(...args);
          failures--;
          return Promise.reject(new PrecisError("STORE_UNAVAILABLE", "The wire was cut."));
        };
      },
    });
    const text = prose(100);
    const id = await queue.add(taskOf("flaky", text));
    await work(flaky);
    const { result, attempts } = await reached(id, "completed");
    expect(attempts).toBe(3);
    expect(failures).toBe(0);
    expect(events.filter(({ event, retried }) => event === "job-failed" && retried === true)).toHaveLength(2);
    const straight = await queue.add(taskOf("straight", text));
    const wanted = (await reached(straight, "completed")).result;
    expect(result?.memory).toEqual(wanted?.memory);
    expect(result?.steps).toBeLessThan(wanted?.steps as number);
  });

  test("a job that cannot succeed is not tried again, and says why", async () => {
    const id = await queue.add(taskOf("odd", "Text.", { setup: { method: "odd" } }));
    await work();
    const { reason, attempts } = await reached(id, "failed");
    expect(reason).toMatch(/odd/);
    expect(attempts).toBe(1);
    expect(await store.get({ namespace: "default", id: "odd" })).toBeUndefined();
  });

  test("a job that is called off ends; what was taken in stays, and goes on when it is put in line again", async () => {
    const task = taskOf("long", prose(600));
    const id = await queue.add(task);
    let cancelling: Promise<boolean> | undefined;
    await work(store, ({ event }) => {
      if (event === "job-progress") cancelling ??= queue.cancel(id);
    });
    await reached(id, "cancelled");
    expect(await cancelling).toBe(true);
    const held = await stepsOf("long");
    expect(held).toBeGreaterThan(0);
    expect(await queue.cancel(id)).toBe(false);
    await queue.add(task);
    const { result } = await reached(id, "completed");
    expect(result?.memory.steps).toBe((result?.steps as number) + held);
  });

  test("a job that waits is called off before it begins", async () => {
    const id = await queue.add(taskOf("never", "Text."));
    expect(await queue.cancel(id)).toBe(true);
    expect((await queue.view(id)).state).toBe("cancelled");
    await work();
    const other = await queue.add(taskOf("other", "Text."));
    await reached(other, "completed");
    expect(await store.get({ namespace: "default", id: "never" })).toBeUndefined();
  });

  test("a worker that stops hands its job to another, which goes on", async () => {
    const task = taskOf("handed", prose(600));
    const id = await queue.add(task);
    await new Promise<void>((resolve) => {
      void work(store, ({ event }) => event === "job-progress" && resolve());
    });
    await workers[0]?.close();
    expect(events.at(-1)).toMatchObject({ event: "job-returned", job: jobId(task) });
    const held = await stepsOf("handed");
    await work();
    const { result } = await reached(id, "completed");
    expect(result?.memory.steps).toBe((result?.steps as number) + held);
  });

  test("two jobs of one session are done one after the other", async () => {
    await work();
    const ids = await Promise.all([queue.add(taskOf("shared", prose(60))), queue.add(taskOf("shared", "And more."))]);
    const results = await Promise.all(ids.map((id) => reached(id, "completed")));
    const steps = results.reduce((sum, { result }) => sum + (result?.steps ?? 0), 0);
    expect(await stepsOf("shared")).toBe(steps);
  });
});
