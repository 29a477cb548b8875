/** @file Sessions in an LMDB database: one file, memory-mapped, that any number of processes of a machine may share. */
import { mkdirSync } from "node:fs";
import type { RootDatabase } from "lmdb";
import { conflict, unavailable } from "./conflicts.js";
import { corruptSession, decodeFrame, frameValue, VERSION_CHARACTERS } from "./frame.js";
import { leaseHeld, leaseLost, newLease, type LeaseRecord } from "./lease-rules.js";
import { Operations } from "./operations.js";
import { checkKey, checkQuery, checkTtl } from "./session-key.js";
import type { Lease, ListPage, ListQuery, SessionKey, SessionStore, SessionValue, StoredSession } from "./store.js";

/**
 * A {@link SessionStore} in a folder with one LMDB database. A write is acknowledged once it is on disk. Leases go by
 * the machine's clock. The file grows with the largest total of sessions and is used again, but does not shrink. Not for
 * folders shared over a network: LMDB maps its file into memory.
 */
export class LmdbStore implements SessionStore {
  readonly #db: RootDatabase<Buffer, string>;
  readonly #operations = new Operations("LMDB");

  private constructor(db: RootDatabase<Buffer, string>) {
    this.#db = db;
  }

  /**
   * Opens the database of a folder, which is made if need be.
   * @throws STORE_UNAVAILABLE if that fails
   */
  static async open(folder: string): Promise<LmdbStore> {
    try {
      const { open } = await import("lmdb");
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      // Batches of an event turn have promises of their own, whose rejection (a full disk) nobody could handle.
      return new LmdbStore(
        open<Buffer, string>({
          path: folder,
          encoding: "binary",
          noSubdir: false,
          maxDbs: 1,
          eventTurnBatching: false,
        }),
      );
    } catch (error) {
      throw unavailable("LMDB", error);
    }
  }

  get(key: SessionKey): Promise<StoredSession | undefined> {
    return this.#operations.run(async () => {
      checkKey(key);
      this.#db.resetReadTxn(); // Without it, what other processes wrote a moment ago may not show yet.
      const stored = this.#db.getBinary(sessionName(key));
      if (stored === undefined) return undefined;
      const session = decodeFrame(key, stored.subarray(VERSION_CHARACTERS));
      if (session.version === versionOf(stored)) return session;
      throw corruptSession(key, "its version does not fit");
    });
  }

  put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    return this.#operations.run(async () => {
      checkKey(key);
      const { version, frame } = frameValue(key, value);
      const stored = Buffer.concat([Buffer.from(version), frame]);
      await this.#transact(() => {
        const found = this.#versionNow(key);
        if (found !== expected) return conflict(key, expected, found);
        this.#db.putSync(sessionName(key), stored);
        return undefined;
      });
      return version;
    });
  }

  delete(key: SessionKey, expected?: string): Promise<boolean> {
    return this.#operations.run(async () => {
      checkKey(key);
      let existed = false;
      await this.#transact(() => {
        const found = this.#versionNow(key);
        if (expected !== undefined && found !== expected) return conflict(key, expected, found);
        existed = found !== undefined;
        this.#db.removeSync(sessionName(key));
        return undefined;
      });
      return existed;
    });
  }

  list(query: ListQuery): Promise<ListPage> {
    return this.#operations.run(async () => {
      const { namespace, prefix, after, limit } = checkQuery(query);
      this.#db.resetReadTxn();
      const space = sessionName({ namespace, id: "" });
      const ids: string[] = [];
      for (const name of this.#db.getKeys({ start: space + (after > prefix ? after : prefix) })) {
        if (!name.startsWith(space + prefix)) break;
        const id = name.slice(space.length);
        if (id === after) continue;
        if (ids.length === limit) return { ids, next: ids.at(-1) };
        ids.push(id);
      }
      return { ids, next: undefined };
    });
  }

  acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      let lease = newLease(key, holder, ttlMs, Date.now());
      await this.#transact(() => {
        const now = Date.now(); // The transaction may have waited for others.
        const current = this.#leaseNow(key);
        if (current !== undefined && current.expires > now) return leaseHeld(key, current);
        lease = { ...lease, expires: now + ttlMs };
        this.#putLease(lease);
        return undefined;
      });
      return lease;
    });
  }

  renewLease(lease: Lease, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      checkTtl(ttlMs);
      let renewed = lease;
      await this.#transact(() => {
        const now = Date.now();
        const current = this.#leaseNow(lease.key);
        if (current?.token !== lease.token || current.expires <= now) return leaseLost(lease);
        renewed = { ...lease, expires: now + ttlMs };
        this.#putLease(renewed);
        return undefined;
      });
      return renewed;
    });
  }

  releaseLease(lease: Lease): Promise<void> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      await this.#transact(() => {
        if (this.#leaseNow(lease.key)?.token === lease.token) this.#db.removeSync(leaseName(lease.key));
        return undefined;
      });
    });
  }

  close(): Promise<void> {
    return this.#operations.close(() => this.#db.close());
  }

  /** Runs `work` alone among all processes and waits until it is on disk. @throws what it returns */
  async #transact(work: () => Error | undefined): Promise<void> {
    const problem = await this.#db.transaction(work).catch(async (error: unknown) => {
      throw await commitError(error);
    });
    if (problem !== undefined) throw problem;
    await this.#db.flushed;
  }

  #versionNow(key: SessionKey): string | undefined {
    const stored = this.#db.getBinaryFast(sessionName(key));
    return stored && versionOf(stored);
  }

  #leaseNow(key: SessionKey): LeaseRecord | undefined {
    const stored = this.#db.getBinary(leaseName(key));
    return stored && (JSON.parse(stored.toString("utf8")) as LeaseRecord);
  }

  #putLease({ key, token, holder, expires }: Lease): void {
    this.#db.putSync(leaseName(key), Buffer.from(JSON.stringify({ token, holder, expires })));
  }
}

/** Why a commit failed, such as a full disk. LMDB keeps it in a promise whose rejection ends the process unless read. */
async function commitError(error: unknown): Promise<unknown> {
  const { commitError: reason } = error as { commitError?: Promise<unknown> };
  if (!(reason instanceof Promise)) return error;
  return reason.then(
    () => error,
    (cause: unknown) => cause,
  );
}

/** Stored are the version, so that writers need not read the rest, and then the frame. */
function versionOf(stored: Uint8Array): string {
  return Buffer.from(stored.subarray(0, VERSION_CHARACTERS)).toString("latin1");
}

function sessionName({ namespace, id }: SessionKey): string {
  return `session/${namespace}/${id}`;
}

function leaseName({ namespace, id }: SessionKey): string {
  return `lease/${namespace}/${id}`;
}
