/** @file What every store of sessions must do; each store's test file calls it with a way to open one. */

import { setTimeout as sleep } from "node:timers/promises";

import { fc } from "../property.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { ListQuery, SessionKey, SessionStore, SessionValue } from "#precis/stores/store.js";
import { updateSession } from "#precis/stores/update-session.js";

/** How a store is tried. */
export interface StoreTrial {
  /** Another connection to the same sessions, as a second server would have. */
  open(): Promise<SessionStore>;
  /** Changes what is stored of a session behind the store's back; left out where nobody can. */
  alter?(key: SessionKey, change: (stored: Buffer) => Uint8Array): Promise<void>;
  /** How many random schedules of writers to run. */
  runs?: number;
}

let fresh = 0;
const newKey = (id = "session", namespace = `n${process.pid}-${fresh++}`): SessionKey => ({ namespace, id });
const valueOf = (text: string, metadata: SessionValue["metadata"] = {}): SessionValue => ({
  bytes: new TextEncoder().encode(text),
  metadata,
});
const textOf = (value: SessionValue | undefined): string | undefined => value && new TextDecoder().decode(value.bytes);
const refused = (code: string): object => ({ name: "PrecisError", code });

/** Declares the tests of one kind of store. */
export function describeStore(name: string, prepare: () => Promise<StoreTrial> | StoreTrial): void {
  describe(`${name} store`, () => {
    let trial: StoreTrial;
    let store: SessionStore;
    let other: SessionStore;
    beforeAll(async () => {
      trial = await prepare();
      [store, other] = [await trial.open(), await trial.open()];
    });
    afterAll(() => Promise.all([store.close(), other.close()]));

    test("returns what was put, also through another connection", async () => {
      const key = newKey();
      expect(await store.get(key)).toBeUndefined();
      const metadata = { title: "Grüße ✓", turns: 3, nested: { list: [1, null, true] } };
      const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
      const version = await store.put(key, { bytes, metadata }, undefined);
      bytes.fill(7); // The store must have kept a copy.
      const expected = Uint8Array.from({ length: 256 }, (_, i) => i);
      for (const reader of [store, other]) {
        expect(await reader.get(key)).toEqual({ version, metadata, bytes: expected });
      }
    });

    test("keeps no session's bytes, and several megabytes", async () => {
      const key = newKey();
      const first = await store.put(key, { bytes: new Uint8Array(0), metadata: {} }, undefined);
      expect((await other.get(key))?.bytes).toHaveLength(0);
      const large = Buffer.alloc(5_000_000, "a large session ");
      await store.put(key, { bytes: large, metadata: {} }, first);
      expect(large.equals((await other.get(key))!.bytes)).toBe(true);
    });

    test("refuses a write that did not see the last one", async () => {
      const key = newKey();
      await expect(store.put(key, valueOf("early"), "no-such-version")).rejects.toMatchObject(
        refused("STORE_CONFLICT"),
      );
      const first = await store.put(key, valueOf("1"), undefined);
      await expect(other.put(key, valueOf("x"), undefined)).rejects.toMatchObject(refused("STORE_CONFLICT"));
      const second = await other.put(key, valueOf("2"), first);
      await expect(store.put(key, valueOf("y"), first)).rejects.toMatchObject({
        ...refused("STORE_CONFLICT"),
        nextStep: expect.stringContaining("Read it again"),
      });
      expect(await store.get(key)).toMatchObject({ version: second });
      expect(textOf(await store.get(key))).toBe("2");
    });

    test("deletes, and a new session of that name has no version of the old one", async () => {
      const key = newKey();
      const first = await store.put(key, valueOf("old"), undefined);
      await expect(store.delete(key, "no-such-version")).rejects.toMatchObject(refused("STORE_CONFLICT"));
      expect(await store.delete(key, first)).toBe(true);
      expect(await other.get(key)).toBeUndefined();
      expect(await store.delete(key)).toBe(false);
      await expect(store.delete(key, first)).rejects.toMatchObject(refused("STORE_CONFLICT"));
      const second = await store.put(key, valueOf("new"), undefined);
      await expect(other.put(key, valueOf("late"), first)).rejects.toMatchObject(refused("STORE_CONFLICT"));
      expect(await store.get(key)).toMatchObject({ version: second });
      expect(await other.delete(key)).toBe(true);
    });

    test("lists ids in order, by prefix and page by page", async () => {
      const { namespace } = newKey();
      const ids = ["B", "a", "a-1", "a.b", "a_", "aB", "ab", "b", "0"].concat(
        Array.from({ length: 12 }, (_, i) => `chat-${i}`),
      );
      for (const id of ids) await store.put({ namespace, id }, valueOf(id), undefined);
      await store.put(newKey("elsewhere"), valueOf(""), undefined);
      expect(await other.list({ namespace })).toEqual({ ids: ids.toSorted(), next: undefined });
      expect((await store.list({ namespace, prefix: "a" })).ids).toEqual(["a", "a-1", "a.b", "aB", "a_", "ab"]);
      for (const limit of [1, 4, 12]) {
        const query: ListQuery = { namespace, prefix: "chat-", limit };
        expect(await pages(store, query)).toEqual(ids.filter((id) => id.startsWith("chat-")).toSorted());
      }
      expect(await store.list({ namespace, prefix: "chat-", after: "chat-7" })).toMatchObject({
        ids: ["chat-8", "chat-9"],
      });
      expect(await store.list({ namespace: "empty-one" })).toEqual({ ids: [], next: undefined });
    });

    test("keeps namespaces apart, and refuses names that could reach out of them", async () => {
      const [mine, theirs] = [newKey(), newKey()];
      await store.put(mine, valueOf("mine"), undefined);
      expect(await store.get(theirs)).toBeUndefined();
      const odd = ["", ".", "..", "../x", "a/b", "a\\b", "a\0", "-a", "ä", "x".repeat(129), "a b"];
      for (const id of odd) {
        const key = { namespace: mine.namespace, id };
        await expect(store.get(key), id).rejects.toMatchObject(refused("INPUT_INVALID"));
        await expect(store.put(key, valueOf(""), undefined), id).rejects.toMatchObject(refused("INPUT_INVALID"));
        await expect(store.acquireLease(key, "me", 10), id).rejects.toMatchObject(refused("INPUT_INVALID"));
        await expect(store.delete({ ...mine, namespace: id }), id).rejects.toMatchObject(refused("INPUT_INVALID"));
        await expect(store.list({ namespace: id }), id).rejects.toMatchObject(refused("INPUT_INVALID"));
      }
      for (const limit of [0, 1001, 1.5, Number.NaN]) {
        await expect(store.list({ ...mine, limit })).rejects.toMatchObject(refused("INPUT_INVALID"));
      }
      const same = { namespace: mine.namespace, id: "x".repeat(128) };
      await store.put(same, valueOf("long"), undefined);
      expect(textOf(await other.get(same))).toBe("long");
    });

    test("tells names apart that differ by case only", async () => {
      const key = newKey("Session");
      await store.put(key, valueOf("upper"), undefined);
      await store.put({ ...key, id: "session" }, valueOf("lower"), undefined);
      expect(textOf(await store.get(key))).toBe("upper");
    });

    test("grants one lease at a time, until it is released or expires", async () => {
      const key = newKey();
      const lease = await store.acquireLease(key, "server 1", 60_000);
      expect(lease).toMatchObject({ key, holder: "server 1" });
      await expect(other.acquireLease(key, "server 2", 1000)).rejects.toMatchObject({
        ...refused("LEASE_HELD"),
        value: { holder: "server 1", expires: lease.expires },
      });
      await other.acquireLease({ ...key, id: "another" }, "server 2", 1000);
      await store.releaseLease(lease);
      await expect(store.renewLease(lease, 1000)).rejects.toMatchObject(refused("LEASE_LOST"));
      const short = await other.acquireLease(key, "server 2", 250);
      await store.releaseLease(lease); // Not his any more: does nothing.
      await expect(store.acquireLease(key, "server 1", 30)).rejects.toMatchObject(refused("LEASE_HELD"));
      await sleep(300);
      const next = await store.acquireLease(key, "server 1", 60_000);
      await expect(other.renewLease(short, 1000)).rejects.toMatchObject(refused("LEASE_LOST"));
      await other.releaseLease(short);
      await expect(other.acquireLease(key, "server 3", 30)).rejects.toMatchObject(refused("LEASE_HELD"));
      await store.releaseLease(next);
    });

    test("renews a lease, but not an expired one", async () => {
      const key = newKey();
      const lease = await store.acquireLease(key, "server 1", 250);
      const renewed = await store.renewLease(lease, 60_000);
      expect(renewed.expires).toBeGreaterThan(lease.expires);
      await sleep(300);
      await expect(other.acquireLease(key, "server 2", 1000)).rejects.toMatchObject(refused("LEASE_HELD"));
      const brief = await store.renewLease(renewed, 1);
      await sleep(30);
      await expect(store.renewLease(brief, 1000)).rejects.toMatchObject(refused("LEASE_LOST"));
      await expect(store.acquireLease(key, "server 1", 0)).rejects.toMatchObject(refused("INPUT_INVALID"));
      for (const holder of ["", "x".repeat(101), "line\n"]) {
        await expect(store.acquireLease(newKey(), holder, 10)).rejects.toMatchObject(refused("INPUT_INVALID"));
      }
      const longest = newKey("x".repeat(128));
      await store.releaseLease(await store.acquireLease(longest, "~".repeat(100), 1000));
    });

    test("grants a lease to one of many who ask at once", async () => {
      const key = newKey();
      const asked = Array.from({ length: 8 }, (_, i) =>
        (i % 2 === 0 ? store : other).acquireLease(key, `worker ${i}`, 60_000),
      );
      const outcomes = await Promise.allSettled(asked);
      expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
      for (const outcome of outcomes) {
        if (outcome.status === "rejected") expect(outcome.reason).toMatchObject(refused("LEASE_HELD"));
      }
    });

    test("lets one of many create a session", async () => {
      const key = newKey();
      const outcomes = await Promise.allSettled(
        Array.from({ length: 8 }, (_, i) => (i % 2 === 0 ? store : other).put(key, valueOf(`${i}`), undefined)),
      );
      const won = outcomes.flatMap((outcome, i) => (outcome.status === "fulfilled" ? [`${i}`] : []));
      expect(won).toHaveLength(1);
      expect(textOf(await store.get(key))).toBe(won[0]);
    });

    test("loses no append of writers that work at the same time", async () => {
      const schedule = fc.array(fc.array(fc.nat(3), { minLength: 1, maxLength: 4 }), { minLength: 2, maxLength: 4 });
      await fc.assert(
        fc.asyncProperty(schedule, async (writers) => {
          const key = newKey();
          const acknowledged: string[] = [];
          const write = async (pauses: number[], writer: number): Promise<void> => {
            for (const [i, pause] of pauses.entries()) {
              await sleep(pause);
              const line = `${writer}.${i};`;
              await updateSession(
                writer % 2 === 0 ? store : other,
                key,
                (now) => valueOf(`${textOf(now) ?? ""}${line}`),
                { attempts: 200 },
              );
              acknowledged.push(line);
            }
          };
          await Promise.all(writers.map(write));
          const kept = textOf(await store.get(key))!.match(/[^;]+;/g)!;
          expect(kept.toSorted()).toEqual(acknowledged.toSorted());
        }),
        { numRuns: trial.runs ?? 15, seed: 7 },
      );
    });

    test("notices every changed, missing or moved byte of what is stored", async ({ skip }) => {
      const { alter } = trial;
      if (alter === undefined) return skip("nothing of it can be reached from outside");
      const key = newKey();
      await store.put(key, valueOf("a session of note", { title: "t" }), undefined);
      let intact = Buffer.alloc(0);
      await alter(key, (stored) => (intact = Buffer.from(stored)));
      const expectCorrupt = async (stored: Uint8Array): Promise<void> => {
        await alter(key, () => stored);
        await expect(other.get(key)).rejects.toMatchObject({ ...refused("STORE_CORRUPT"), value: "session" });
      };
      for (let i = 0; i < intact.length; i += 7) {
        const changed = Buffer.from(intact);
        changed[i]! ^= 1 << (i % 8);
        await expectCorrupt(changed);
      }
      for (const length of [0, 10, 43, intact.length - 1]) await expectCorrupt(intact.subarray(0, length));
      await expectCorrupt(Buffer.concat([intact, Buffer.of(0)]));
      const neighbour = { ...key, id: "neighbour" };
      await store.put(neighbour, valueOf("another session"), undefined);
      let foreign = Buffer.alloc(0);
      await alter(neighbour, (stored) => (foreign = Buffer.from(stored)));
      await expectCorrupt(foreign);
      await alter(key, () => intact);
      expect(textOf(await other.get(key))).toBe("a session of note");
      await alter(key, () => intact.subarray(1));
      expect(await store.delete(key), "a damaged session can be deleted").toBe(true);
    });

    test("refuses work once it was closed", async () => {
      const third = await trial.open();
      const key = newKey();
      await third.put(key, valueOf("kept"), undefined);
      await third.close();
      await third.close();
      await expect(third.get(key)).rejects.toMatchObject(refused("STORE_UNAVAILABLE"));
      await expect(third.put(key, valueOf(""), undefined)).rejects.toMatchObject(refused("STORE_UNAVAILABLE"));
      await expect(third.list({ namespace: key.namespace })).rejects.toMatchObject(refused("STORE_UNAVAILABLE"));
      await expect(third.acquireLease(key, "me", 10)).rejects.toMatchObject(refused("STORE_UNAVAILABLE"));
    });
  });
}

async function pages(store: SessionStore, query: ListQuery): Promise<string[]> {
  const ids: string[] = [];
  let after: string | undefined;
  do {
    const page = await store.list({ ...query, after });
    expect(page.ids.length).toBeLessThanOrEqual(query.limit!);
    ids.push(...page.ids);
    after = page.next;
  } while (after !== undefined);
  return ids;
}
