/** @file The store in LMDB does what every store must, between processes too, and when they are killed. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { open } from "lmdb";
import { afterAll, expect, test } from "vitest";

import { LmdbStore } from "#precis/stores/lmdb-store.js";
import { CRASH_TIMEOUT_MS, crashRounds } from "./crash-rounds.js";
import { describeStore } from "./store-suite.js";

const scratch = mkdtempSync(join(tmpdir(), "precis-lmdb-"));
afterAll(() => rmSync(scratch, { recursive: true }));

describeStore("LMDB", () => {
  const path = join(scratch, "suite");
  return {
    open: () => LmdbStore.open(path),
    alter: async ({ namespace, id }, change) => {
      const db = open<Buffer, string>({ path, encoding: "binary", noSubdir: false, maxDbs: 1 });
      const name = `session/${namespace}/${id}`;
      await db.put(name, Buffer.from(change(db.getBinary(name)!)));
      await db.close();
    },
  };
});

test("sessions outlast the process and a database opened again", async () => {
  const path = join(scratch, "again");
  const key = { namespace: "n", id: "session" };
  const first = await LmdbStore.open(path);
  const version = await first.put(key, { bytes: Buffer.from("kept"), metadata: { a: 1 } }, undefined);
  await first.close();
  const second = await LmdbStore.open(path);
  expect(await second.get(key)).toEqual({ version, metadata: { a: 1 }, bytes: Uint8Array.from(Buffer.from("kept")) });
  await second.close();
});

test("a folder that cannot be made says so", async () => {
  writeFileSync(join(scratch, "a-file"), "");
  await expect(LmdbStore.open(join(scratch, "a-file", "below"))).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
});

test(
  "processes that are killed while they write lose nothing that was acknowledged",
  async () => {
    await crashRounds("lmdb", join(scratch, "crash"));
  },
  CRASH_TIMEOUT_MS,
);
