/** @file The store goes away under load: restarted, cut off, or full. The server refuses with reason and goes on by itself. */
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PostgresStore, RedisStore, type SessionStore } from "#precis/index.js";
import type { Fixture } from "../conformance/fixtures.js";
import { tinyFixture } from "../server/fixture.js";
import { postgresProgram, redisProgram, startPostgres, startRedis, type TestServer } from "../stores/servers.js";
import { CarefulClient } from "./careful-client.js";
import { kill, startServed, type Served } from "./served.js";
import { openProxy } from "./tcp-proxy.js";

let fixture: Fixture;
beforeAll(async () => {
  fixture = await tinyFixture();
});
afterAll(() => fixture[Symbol.asyncDispose]());

/** What a client may be told while a store is away. */
const DELIBERATE: ReadonlySet<string> = new Set(["store_unavailable", "session_lease_lost", "session_busy"]);
const KINDS: Readonly<Record<string, { program: string | undefined; start: () => Promise<TestServer> }>> = {
  Redis: { program: redisProgram, start: () => startRedis({ durable: true }) },
  PostgreSQL: { program: postgresProgram, start: startPostgres },
};

/** Waits until every client had `turns` more turns acknowledged. */
async function goOn(clients: readonly CarefulClient[], turns: number): Promise<void> {
  const wanted = clients.map(({ successes }) => successes + turns);
  for (let attempt = 0; clients.some(({ successes }, i) => successes < wanted[i]!); attempt++) {
    expect(attempt, "the server works again by itself").toBeLessThan(1000);
    await sleep(20);
  }
}

/** Several clients at work while `disturb` runs; then everything acknowledged must be there, also after a restart. */
async function through(
  store: string,
  disturb: (clients: CarefulClient[]) => Promise<void>,
  ids: readonly string[] = ["a", "b", "c"],
): Promise<CarefulClient[]> {
  const clients = await Promise.all(ids.map((id) => CarefulClient.of(fixture.model, id)));
  const server = await startServed(fixture.files.directory, store);
  for (const client of clients) await client.create(server.url);
  const stop = new AbortController();
  const work = Promise.all(clients.map((client) => client.work(server.url, { signal: stop.signal })));
  await Promise.race([work, goOn(clients, 2).then(() => disturb(clients))]);
  await Promise.race([work, goOn(clients, 2)]);
  stop.abort();
  await work;
  for (const client of clients) await client.verify(server.url);
  await kill(server);
  const next: Served = await startServed(fixture.files.directory, store);
  for (const client of clients) await client.verify(next.url);
  await kill(next);
  return clients;
}

/** Expects refusals that say what is wrong and when to try again. An answer that had begun to stream can only say what. */
function expectDeliberate(clients: readonly CarefulClient[]): void {
  for (const { status, code, retryAfter } of clients.flatMap(({ refusals }) => refusals)) {
    expect(DELIBERATE).toContain(code);
    expect([200, 429, 503]).toContain(status);
    if (status !== 200) expect(Number(retryAfter)).toBeGreaterThan(0);
  }
}

const open = (kind: string, url: string): Promise<SessionStore> =>
  kind === "Redis" ? RedisStore.open(url, { timeoutMs: 300 }) : PostgresStore.open(url, { timeoutMs: 300 });

describe.for(Object.keys(KINDS))("%s", (kind) => {
  const { program, start } = KINDS[kind]!;
  let backing: TestServer;
  beforeAll(async () => {
    if (program !== undefined) backing = await start();
  });
  afterAll(() => backing?.stop());
  const url = (port: number): string =>
    kind === "Redis" ? `redis://127.0.0.1:${port}/` : `postgres://postgres@127.0.0.1:${port}/postgres`;

  test.skipIf(program === undefined)("that crashes and comes back loses nothing that was acknowledged", async () => {
    const clients = await through(url(backing.port), async (working) => {
      for (const pause of [0, 700]) {
        await backing.restart(pause);
        await goOn(working, 1);
      }
    });
    expectDeliberate(clients);
    expect(clients.flatMap(({ refusals }) => refusals).length).toBeGreaterThan(0);
  });

  test.skipIf(program === undefined)("behind a connection that falls silent is not waited for", async () => {
    const proxy = await openProxy(backing.port);
    const store = await open(kind, url(proxy.port));
    const key = { namespace: "n", id: "silent" };
    const version = await store.put(key, { bytes: new Uint8Array(1), metadata: {} }, undefined);
    proxy.stall();
    await expect(store.get(key)).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    proxy.cut();
    expect(await store.get(key)).toMatchObject({ version });
    await store.close();
    await proxy.close();
  });

  test.skipIf(program === undefined)("behind a connection that breaks loses nothing either", async () => {
    const proxy = await openProxy(backing.port);
    let broken = 0;
    const disturb = async (working: CarefulClient[]): Promise<void> => {
      for (let cut = 0; cut < 12; cut++) {
        await sleep((cut * 29) % 100);
        broken += proxy.cut();
      }
      broken += proxy.cut(true);
      await sleep(900);
      proxy.mend();
      await goOn(working, 1);
    };
    expectDeliberate(await through(url(proxy.port), disturb, ["d", "e", "f"]));
    expect(broken).toBeGreaterThan(3);
    await proxy.close();
  });
});

describe.for(["file", "lmdb"])("a full disk under a %s store", (kind) => {
  test("refuses turns until there is room again, and loses nothing", async ({ skip }) => {
    if (process.platform !== "linux" || process.getuid?.() !== 0) {
      return skip("only root can mount a small file system to fill");
    }
    const disk = join(fixture.scratch, `disk-${kind}`);
    mkdirSync(disk);
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], { stdio: "pipe" });
    } catch (error) {
      return skip(`no small file system can be mounted here: ${(error as Error).message}`);
    }
    try {
      const store = `${kind === "lmdb" ? "lmdb:" : ""}${join(disk, "store")}`;
      const filler = join(disk, "filler");
      const clients = await through(store, async (working) => {
        fill(filler);
        // Of one client it may be that pages freed before are enough for all of its turns.
        const refused = (): boolean => working.flatMap(({ refusals }) => refusals).length > 3;
        for (let attempt = 0; attempt < 500 && !refused(); attempt++) {
          await sleep(20);
          fill(`${filler}-${attempt}`);
        }
        expect(refused(), "turns are refused while the disk is full").toBe(true);
        for (let attempt = -1; attempt < 500; attempt++)
          rmSync(attempt < 0 ? filler : `${filler}-${attempt}`, { force: true });
        await goOn(working, 1);
      });
      expectDeliberate(clients);
    } finally {
      execFileSync("umount", ["-l", disk]);
    }
  });
});

/** Writes a file until nothing fits any more. */
function fill(path: string): void {
  for (const size of [1 << 20, 1 << 16, 1 << 12]) {
    try {
      for (;;) writeFileSync(path, Buffer.alloc(size), { flag: "a" });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    }
  }
}
