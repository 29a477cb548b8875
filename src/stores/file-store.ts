/**
 * @file Sessions as files that any number of processes may share. A session's snapshot is a file named by its version,
 * written and synced before the session's cell (file-cell.ts) is set to that version; so a process that dies at any
 * moment leaves either the old version or the new one.
 */
import { mkdir, open, readFile, readdir, rm, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { conflict, refuseConflict } from "./conflicts.js";
import { FileCell, syncFolder, unless } from "./file-cell.js";
import { fromFileName, toFileName } from "./file-names.js";
import { corruptSession, decodeFrame, frameValue } from "./frame.js";
import { leaseLost, newLease, refuseHeld, refuseLost, type LeaseRecord } from "./lease-rules.js";
import { pageOf } from "./memory-store.js";
import { Operations } from "./operations.js";
import { checkKey, checkQuery, checkTtl } from "./session-key.js";
import type { Lease, ListPage, ListQuery, SessionKey, SessionStore, SessionValue, StoredSession } from "./store.js";

const HOUR_MS = 3_600_000;
/** What a namespace has: cells of sessions, their snapshots, and cells of leases. */
const PARTS = ["sessions", "snapshots", "leases"] as const;

/**
 * A {@link SessionStore} in a folder. Leases go by the clock of the machine; machines that share the folder over a
 * network need equal clocks and a file system whose renames are atomic (NFS, SMB and object stores have not all).
 */
export class FileStore implements SessionStore {
  readonly #root: string;
  readonly #operations = new Operations("file system");
  readonly #ready = new Set<string>();

  /** @param folder made when first written to; readable by its owner only */
  constructor(folder: string) {
    this.#root = resolve(folder);
  }

  get(key: SessionKey): Promise<StoredSession | undefined> {
    return this.#operations.run(async () => {
      checkKey(key);
      let before: string | undefined;
      for (;;) {
        const version = await this.#session(key).read();
        if (version === undefined) return undefined;
        const frame = await unless(["ENOENT"], readFile(this.#snapshot(key, version)));
        if (frame !== undefined) {
          const session = decodeFrame(key, frame);
          if (session.version === version) return session;
          throw corruptSession(key, "its file holds another version");
        }
        // A version that was replaced while we looked has no file; one that is still the current one must.
        if (version === before) throw corruptSession(key, "its file is missing");
        before = version;
      }
    });
  }

  put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    return this.#operations.run(async () => {
      checkKey(key);
      const cell = this.#session(key);
      refuseConflict(key, expected, await cell.read());
      await this.#prepare(key.namespace);
      const { version, frame } = frameValue(key, value);
      const file = this.#snapshot(key, version);
      try {
        await writeDurably(file, frame);
        const done = expected === undefined ? await cell.create(version) : await cell.replace(expected, version);
        if (!done) throw conflict(key, expected, await cell.read());
      } catch (error) {
        // After a failed sync the new version may be in place; then it needs its file.
        if ((await cell.read()) !== version) await rm(file, { force: true });
        throw error;
      }
      if (expected !== undefined) await rm(this.#snapshot(key, expected), { force: true });
      return version;
    });
  }

  delete(key: SessionKey, expected?: string): Promise<boolean> {
    return this.#operations.run(async () => {
      checkKey(key);
      const cell = this.#session(key);
      for (;;) {
        const version = await cell.read();
        if (expected !== undefined) refuseConflict(key, expected, version);
        if (version === undefined) return false;
        if (!(await cell.remove(version))) continue;
        await rm(this.#snapshot(key, version), { force: true });
        return true;
      }
    });
  }

  list(query: ListQuery): Promise<ListPage> {
    return this.#operations.run(async () => {
      const checked = checkQuery(query);
      const { ids, next } = pageOf(await this.#idsIn("sessions", checked.namespace), checked);
      // Folders of sessions that are being deleted are empty.
      const cells = ids.map((id) => this.#session({ namespace: checked.namespace, id }).read());
      const versions = await Promise.all(cells);
      return { ids: ids.filter((_, i) => versions[i] !== undefined), next };
    });
  }

  acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      const cell = this.#lease(key);
      await this.#prepare(key.namespace);
      for (;;) {
        const now = Date.now();
        const lease = newLease(key, holder, ttlMs, now);
        const current = await cell.read();
        refuseHeld(key, readLease(current), now);
        const name = leaseName(lease);
        if (current === undefined ? await cell.create(name) : await cell.replace(current, name)) return lease;
      }
    });
  }

  renewLease(lease: Lease, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      checkTtl(ttlMs);
      const cell = this.#lease(lease.key);
      const current = await cell.read();
      const now = Date.now();
      refuseLost(lease, readLease(current), now);
      const renewed = { ...lease, expires: now + ttlMs };
      if (current === leaseName(renewed) || (await cell.replace(current!, leaseName(renewed)))) return renewed;
      throw leaseLost(lease);
    });
  }

  releaseLease(lease: Lease): Promise<void> {
    return this.#operations.run(async () => {
      const cell = this.#lease(lease.key);
      const current = await cell.read();
      if (current !== undefined && readLease(current)?.token === lease.token) await cell.remove(current);
    });
  }

  /**
   * Removes what processes that died left behind: snapshots that no session has, and leases that ended.
   * @param olderThanMs only what is older, by default an hour: younger ones may be work under way
   * @returns how many files and leases were removed
   */
  sweep(olderThanMs: number = HOUR_MS): Promise<number> {
    return this.#operations.run(async () => {
      const before = Date.now() - olderThanMs;
      const isOld = async (path: string): Promise<boolean> =>
        ((await unless(["ENOENT"], stat(path)))?.mtimeMs ?? Infinity) < before;
      let removed = 0;
      const remove = async (path: string): Promise<void> => {
        await rm(path, { recursive: true, force: true });
        removed++;
      };
      for (const name of await namesIn(join(this.#root, "scratch"))) {
        const path = join(this.#root, "scratch", name);
        if (await isOld(path)) await remove(path);
      }
      for (const folder of await namesIn(join(this.#root, "snapshots"))) {
        const namespace = fromFileName(folder);
        if (namespace === undefined) continue;
        for (const name of await namesIn(join(this.#root, "snapshots", folder))) {
          const path = join(this.#root, "snapshots", folder, name);
          const [id, version] = [fromFileName(name.slice(0, name.lastIndexOf("."))), name.split(".").at(-1)];
          if (id === undefined || !(await isOld(path))) continue;
          if ((await this.#session({ namespace, id }).read()) !== version) await remove(path);
        }
        for (const id of await this.#idsIn("leases", namespace)) {
          const cell = this.#lease({ namespace, id });
          const name = await cell.read();
          const record = readLease(name);
          if (record !== undefined && record.expires < before && (await cell.remove(name!))) removed++;
        }
      }
      return removed;
    });
  }

  close(): Promise<void> {
    return this.#operations.close();
  }

  #session({ namespace, id }: SessionKey): FileCell {
    return new FileCell(join(this.#root, "sessions", toFileName(namespace), toFileName(id)), {
      scratch: join(this.#root, "scratch"),
      durable: true,
    });
  }

  #lease(key: SessionKey): FileCell {
    checkKey(key);
    return new FileCell(join(this.#root, "leases", toFileName(key.namespace), toFileName(key.id)), {
      scratch: join(this.#root, "scratch"),
      durable: false,
    });
  }

  #snapshot({ namespace, id }: SessionKey, version: string): string {
    return join(this.#root, "snapshots", toFileName(namespace), `${toFileName(id)}.${version}`);
  }

  /** Makes the folders of a namespace, once. */
  async #prepare(namespace: string): Promise<void> {
    if (this.#ready.has(namespace)) return;
    const folders = PARTS.map((part) => join(this.#root, part, toFileName(namespace)));
    for (const folder of [join(this.#root, "scratch"), ...folders])
      await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const folder of [...folders.map(dirname), this.#root, dirname(this.#root)]) await syncFolder(folder);
    this.#ready.add(namespace);
  }

  async #idsIn(part: (typeof PARTS)[number], namespace: string): Promise<string[]> {
    const names = await namesIn(join(this.#root, part, toFileName(namespace)));
    return names.map(fromFileName).filter((id) => id !== undefined);
  }
}

async function namesIn(folder: string): Promise<string[]> {
  return (await unless(["ENOENT"], readdir(folder))) ?? [];
}

async function writeDurably(file: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(file, "wx", 0o600);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await syncFolder(dirname(file));
}

/** A lease as a file name: token, end and holder, at most 190 characters. */
function leaseName({ token, expires, holder }: LeaseRecord): string {
  return `${token}.${expires}.${Buffer.from(holder).toString("base64url")}`;
}

function readLease(name: string | undefined): LeaseRecord | undefined {
  const [token, expires, holder] = name?.split(".") ?? [];
  if (token === undefined || expires === undefined || holder === undefined) return undefined;
  return { token, expires: Number(expires), holder: Buffer.from(holder, "base64url").toString() };
}
