/** @file `precis serve` is killed again and again; what it acknowledged is there when it starts again. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Fixture } from "../conformance/fixtures.js";
import { tinyFixture } from "../server/fixture.js";
import { CarefulClient } from "./careful-client.js";
import { kill, startServed, type Served } from "./served.js";

const rounds = Number(process.env.PRECIS_CRASH_ROUNDS ?? 4);

let fixture: Fixture;
beforeAll(async () => {
  fixture = await tinyFixture();
});
afterAll(() => fixture[Symbol.asyncDispose]());

/**
 * Each round another way to go: in the middle of the work, or while it shuts down; every other time before it may have
 * done anything at all.
 */
async function end(server: Served, round: number, clients: readonly CarefulClient[]): Promise<void> {
  const done = (): number => clients.reduce((sum, { successes }) => sum + successes, 0);
  const before = done();
  const patience = round % 2 === 0 ? 1000 : 0;
  for (let wait = 0; done() === before && wait < patience; wait++) await sleep(10);
  await sleep(60 + ((round * 37) % 340));
  if (round % 4 >= 2) {
    server.child.kill("SIGTERM");
    await sleep((round * 5) % 40);
  }
  await kill(server);
}

describe.for(["file", "lmdb"])("a server with a %s store that is killed", (kind) => {
  test("loses nothing that it acknowledged", { timeout: 60_000 + rounds * 10_000 }, async () => {
    const store = `${kind === "lmdb" ? "lmdb:" : ""}${fixture.scratch}/${kind}`;
    // One of a memory that only grows, whose states share what they store, until its context is full.
    const clients = await Promise.all([
      CarefulClient.of(fixture.model, "a"),
      CarefulClient.of(fixture.model, "b"),
      CarefulClient.of(fixture.model, "grows", { method: "full" }, 50),
    ]);
    let [found, unreadable] = [0, 0];
    for (let round = 0; round < rounds; round++) {
      const server = await startServed(fixture.files.directory, store);
      for (const client of clients) {
        const before = client.acknowledged;
        await client.verify(server.url);
        found += client.acknowledged - before;
        await client.create(server.url);
      }
      const stop = new AbortController();
      const work = clients.map((client) => client.work(server.url, { signal: stop.signal, untilCut: true }));
      await end(server, round, clients);
      stop.abort();
      await Promise.all(work);
      unreadable += (await server.finished).stdout.split("session-unreadable").length - 1;
    }
    const last = await startServed(fixture.files.directory, store);
    for (const client of clients) await client.verify(last.url);
    await kill(last);
    const total = clients.reduce((sum, { successes }) => sum + successes, 0);
    const refusals = clients.flatMap(({ refusals: own }) => own);
    console.info(
      `${kind}: ${rounds} rounds, ${total} turns acknowledged, ${found} more found, ${refusals.length} refused`,
    );
    expect(total).toBeGreaterThanOrEqual(rounds / 2);
    expect(unreadable).toBe(0);
    // Only a server that shuts down refuses.
    for (const { status } of refusals) expect([503]).toContain(status);
  });
});
