/** @file The store in Redis does what every store must, on a real server. */

import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { RedisStore } from "#precis/stores/redis-store.js";
import { redisProgram, startRedis, type TestServer } from "./servers.js";
import { describeStore } from "./store-suite.js";

test("without a server says that it cannot be reached", async () => {
  const refused = RedisStore.open("redis://127.0.0.1:1");
  await expect(refused).rejects.toMatchObject({
    code: "STORE_UNAVAILABLE",
    nextStep: expect.stringMatching(/reachable/),
  });
});

if (redisProgram === undefined) {
  test.skip("redis-server and valkey-server are not installed: apt-get install redis-server", () => undefined);
}
describe.skipIf(redisProgram === undefined)("a Redis server", () => {
  let server: TestServer;
  let redis: Redis;
  let url: string;
  beforeAll(async () => {
    server = await startRedis();
    url = `redis://127.0.0.1:${server.port}`;
    redis = new Redis(url);
  });
  afterAll(async () => {
    redis.disconnect();
    await server.stop();
  });

  describeStore("Redis", () => ({
    open: () => RedisStore.open(url),
    alter: async ({ namespace, id }, change) => {
      const name = `precis:{${namespace}}:session:${id}`;
      await redis.set(name, Buffer.from(change((await redis.getBuffer(name))!)));
    },
  }));

  test("forgets leases that ended", async () => {
    const store = await RedisStore.open(url);
    await store.acquireLease({ namespace: "n", id: "s" }, "me", 20);
    expect(await redis.keys("precis:{n}:*")).toEqual(["precis:{n}:lease:s"]);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(await redis.keys("precis:{n}:*")).toEqual([]);
    await store.close();
  });
});
