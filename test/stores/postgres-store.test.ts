/** @file The store in PostgreSQL does what every store must, on a real server. */

import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { PostgresStore } from "#precis/stores/postgres-store.js";
import { postgresProgram, startPostgres, type TestServer } from "./servers.js";
import { describeStore } from "./store-suite.js";

test("without a server says that it cannot be reached", async () => {
  const refused = PostgresStore.open("postgres://postgres@127.0.0.1:1/postgres");
  await expect(refused).rejects.toMatchObject({
    code: "STORE_UNAVAILABLE",
    nextStep: expect.stringMatching(/reachable/),
  });
});

if (postgresProgram === undefined) {
  test.skip("postgres is not installed: apt-get install postgresql", () => undefined);
}
describe.skipIf(postgresProgram === undefined)("a PostgreSQL server", () => {
  let server: TestServer;
  let client: Client;
  let url: string;
  beforeAll(async () => {
    server = await startPostgres();
    url = `postgres://postgres@127.0.0.1:${server.port}/postgres`;
    client = new Client(url);
    await client.connect();
  });
  afterAll(async () => {
    await client.end();
    await server.stop();
  });

  test("gets its tables from whoever comes first, even of several at once", async () => {
    const stores = await Promise.all(Array.from({ length: 4 }, () => PostgresStore.open(url, { connections: 1 })));
    expect(await stores[3].list({ namespace: "n" })).toEqual({ ids: [], next: undefined });
    await Promise.all(stores.map((store) => store.close()));
  });

  describeStore("PostgreSQL", () => ({
    open: () => PostgresStore.open(url),
    alter: async ({ namespace, id }, change) => {
      const at = "where namespace = $1 and id = $2";
      const found = await client.query<{ frame: Buffer }>(`select frame from precis_sessions ${at}`, [namespace, id]);
      const changed = Buffer.from(change(found.rows[0].frame));
      await client.query(`update precis_sessions set frame = $3 ${at}`, [namespace, id, changed]);
    },
  }));
});
