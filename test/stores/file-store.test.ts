/** @file The store in a folder does what every store must; what it leaves on disk, also when a process dies. */

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { fc } from "../property.js";
import { afterAll, expect, test } from "vitest";

import { fromFileName, toFileName } from "#precis/stores/file-names.js";
import { FileStore } from "#precis/stores/file-store.js";
import { CRASH_TIMEOUT_MS, crashRounds } from "./crash-rounds.js";
import { describeStore } from "./store-suite.js";

const scratch = mkdtempSync(join(tmpdir(), "precis-files-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const filesBelow = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile());

describeStore("file", () => {
  const root = join(scratch, "suite");
  return {
    open: async () => new FileStore(root),
    alter: async ({ namespace, id }, change) => {
      const folder = join(root, "snapshots", toFileName(namespace));
      const name = readdirSync(folder).find((file) => file.startsWith(`${toFileName(id)}.`))!;
      writeFileSync(join(folder, name), change(readFileSync(join(folder, name))));
    },
  };
});

test("names survive file systems that ignore case", () => {
  const id = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/);
  fc.assert(
    fc.property(id, id, (one, two) => {
      expect(fromFileName(toFileName(one))).toBe(one);
      expect(toFileName(one).length).toBeLessThanOrEqual(161);
      expect(toFileName(one).toLowerCase() === toFileName(two).toLowerCase()).toBe(one === two);
      expect(toFileName(one)).toMatch(/^[a-z0-9].*~[0-9a-f]*$/);
    }),
  );
  expect(fromFileName("lost+found")).toBeUndefined();
});

test("only the last version of a session takes space, and nothing of a deleted one", async () => {
  const root = join(scratch, "space");
  const store = new FileStore(root);
  const key = { namespace: "n", id: "session" };
  let version: string | undefined;
  for (let i = 0; i < 5; i++) version = await store.put(key, { bytes: Buffer.from(`${i}`), metadata: {} }, version);
  await expect(store.put(key, { bytes: Buffer.from("x"), metadata: {} }, "other")).rejects.toThrow();
  expect(filesBelow(join(root, "snapshots"))).toHaveLength(1);
  expect(statSync(filesBelow(join(root, "snapshots"))[0]!).mode & 0o077).toBe(0);
  await store.delete(key);
  expect(filesBelow(root)).toEqual([]);
});

test("sweeping removes what dead processes left, and nothing that is in use", async () => {
  const root = join(scratch, "sweep");
  const store = new FileStore(root);
  const key = { namespace: "n", id: "Session" };
  await store.put(key, { bytes: Buffer.from("kept"), metadata: {} }, undefined);
  await store.acquireLease(key, "alive", 60_000);
  await store.acquireLease({ ...key, id: "gone" }, "dead", 1);
  writeFileSync(join(root, "snapshots", toFileName("n"), `${toFileName("Session")}.0-1-2`), "half a snapsh");
  writeFileSync(join(root, "scratch", "left"), "");
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(await store.sweep()).toBe(0);
  expect(await store.sweep(1)).toBe(3);
  expect((await store.get(key))?.bytes).toEqual(Uint8Array.from(Buffer.from("kept")));
  await expect(store.acquireLease(key, "other", 10)).rejects.toMatchObject({ code: "LEASE_HELD" });
  expect(readdirSync(join(root, "scratch"))).toEqual([]);
});

test("a folder that cannot be written says so", async () => {
  writeFileSync(join(scratch, "a-file"), "");
  const store = new FileStore(join(scratch, "a-file"));
  const put = store.put({ namespace: "n", id: "s" }, { bytes: new Uint8Array(1), metadata: {} }, undefined);
  await expect(put).rejects.toMatchObject({ code: "STORE_UNAVAILABLE", nextStep: expect.stringContaining("space") });
});

test(
  "processes that are killed while they write lose nothing that was acknowledged",
  async () => {
    await crashRounds("file", join(scratch, "crash"));
  },
  CRASH_TIMEOUT_MS,
);
