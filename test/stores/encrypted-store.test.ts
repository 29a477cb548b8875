/** @file Encryption around a store: what it hides, what it refuses, and how keys are changed. */

import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, describe, expect, test } from "vitest";

import { EncryptedStore } from "#precis/stores/encrypted-store.js";
import { FileStore } from "#precis/stores/file-store.js";
import { MemoryStore } from "#precis/stores/memory-store.js";
import { expectError } from "../conformance/expect-error.js";
import { describeStore } from "./store-suite.js";

const secret = randomBytes(32);
const key = { namespace: "n", id: "session" };
const session = { bytes: Buffer.from("the snapshot's own bytes"), metadata: { title: "a private title" } };
const scratch = mkdtempSync(join(tmpdir(), "precis-encrypted-"));
afterAll(() => rmSync(scratch, { recursive: true }));

describeStore("encrypted", () => {
  const data = new MemoryStore();
  return { open: async () => new EncryptedStore(data.connect(), { key: secret }), runs: 5 };
});

describe("encryption", () => {
  test("leaves nothing readable on disk", async () => {
    const store = new EncryptedStore(new FileStore(scratch), { key: secret.toString("hex") });
    await store.put(key, session, undefined);
    expect(await store.get(key)).toMatchObject({ metadata: session.metadata });
    const files = readdirSync(scratch, { recursive: true, encoding: "utf8" }).map((name) => join(scratch, name));
    const all = files.filter((path) => statSync(path).isFile()).map((path) => readFileSync(path, "latin1"));
    expect(all.join("")).not.toMatch(/snapshot's|private/);
    expect(all.join("")).not.toContain(secret.toString("latin1"));
    await store.close();
  });

  test("never gives the same bytes twice", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { key: secret });
    const first = await store.put(key, session, undefined);
    const before = Buffer.from((await inner.get(key))!.bytes);
    await store.put(key, session, first);
    const after = Buffer.from((await inner.get(key))!.bytes);
    expect(after.subarray(60).equals(before.subarray(60))).toBe(false);
  });

  test("says which key is missing, without showing one", async () => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { key: secret }).put(key, session, undefined);
    const other = new EncryptedStore(inner, { key: randomBytes(32).toString("base64") });
    await expectError(other.get(key), "STORE_KEY_MISMATCH", /session/, /another key \([0-9a-f]{16}\)/, /old keys/);
    await inner.put({ ...key, id: "plain" }, session, undefined);
    await expectError(other.get({ ...key, id: "plain" }), "STORE_KEY_MISMATCH", /not encrypted/);
    const short = "not a key, but a secret";
    expect(() => new EncryptedStore(inner, { key: short })).toThrow(/needs 32 bytes/);
    expect(() => new EncryptedStore(inner, { key: short })).not.toThrow(short);
  });

  test("notices every byte that somebody changed who could also make the checksums right", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { key: secret });
    let version = await store.put(key, session, undefined);
    const { bytes } = (await inner.get(key))!;
    const change = async (changed: Uint8Array): Promise<void> => {
      version = await inner.put(key, { bytes: changed, metadata: {} }, version);
    };
    for (let i = 0; i < bytes.length; i++) {
      const changed = Uint8Array.from(bytes);
      changed[i]! ^= 1 << (i % 8);
      await change(changed);
      await expectError(store.get(key), i < 16 ? "STORE_KEY_MISMATCH" : "STORE_CORRUPT");
    }
    for (const length of [60, 64, bytes.length - 1]) {
      await change(bytes.subarray(0, length));
      await expectError(store.get(key), "STORE_CORRUPT");
    }
  });

  test("refuses another session's value in a session's place", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { key: secret });
    await store.put(key, session, undefined);
    const { bytes } = (await inner.get(key))!;
    await inner.put({ ...key, id: "victim" }, { bytes, metadata: {} }, undefined);
    await expectError(store.get({ ...key, id: "victim" }), "STORE_CORRUPT", /changed since it was encrypted/);
  });

  test("reads with old keys and writes with the new one", async () => {
    const inner = new MemoryStore();
    const first = await new EncryptedStore(inner, { key: secret }).put(key, session, undefined);
    const next = randomBytes(32);
    const both = new EncryptedStore(inner, { key: next, oldKeys: [secret] });
    const read = await both.get(key);
    expect(Buffer.from(read!.bytes).equals(session.bytes)).toBe(true);
    await both.put(key, read!, first);
    await expect(new EncryptedStore(inner, { key: next }).get(key)).resolves.toMatchObject({
      metadata: session.metadata,
    });
    await expectError(new EncryptedStore(inner, { key: secret }).get(key), "STORE_KEY_MISMATCH");
  });
});
