/** @file Sessions in this process's memory: for tests, and for servers that may forget. */
import { closedStore, refuseConflict } from "./conflicts.js";
import { decodeFrame, frameValue } from "./frame.js";
import { newLease, refuseHeld, refuseLost, type LeaseRecord } from "./lease-rules.js";
import { checkKey, checkQuery, checkTtl } from "./session-key.js";
import type { Lease, ListPage, ListQuery, SessionKey, SessionStore, SessionValue, StoredSession } from "./store.js";

interface Entry {
  version: string;
  frame: Uint8Array;
}

/** The page of a query from all ids of its namespace, in any order. */
export function pageOf(all: Iterable<string>, query: Required<ListQuery>): ListPage {
  const fits = (id: string): boolean => id.startsWith(query.prefix) && id > query.after;
  // The default order of sort() is that of character codes, which the interface promises.
  const matching = [...all].filter(fits).sort();
  const ids = matching.slice(0, query.limit);
  return { ids, next: matching.length > ids.length ? ids.at(-1) : undefined };
}

/** A {@link SessionStore} that lasts as long as the object. `now` is its clock, in milliseconds since 1970. */
export class MemoryStore implements SessionStore {
  #namespaces = new Map<string, Map<string, Entry>>();
  #leases = new Map<string, LeaseRecord>();
  readonly #now: () => number;
  #closed = false;

  constructor({ now = Date.now }: { now?: () => number } = {}) {
    this.#now = now;
  }

  /** Another store of the same sessions, to be closed on its own: what a second server sees of a shared store. */
  connect(): MemoryStore {
    const store = new MemoryStore({ now: this.#now });
    store.#namespaces = this.#namespaces;
    store.#leases = this.#leases;
    return store;
  }

  async get(key: SessionKey): Promise<StoredSession | undefined> {
    const entry = this.#entries(key).get(key.id);
    return entry === undefined ? undefined : decodeFrame(key, entry.frame);
  }

  async put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    const entries = this.#entries(key);
    refuseConflict(key, expected, entries.get(key.id)?.version);
    const entry = frameValue(key, value);
    entries.set(key.id, entry);
    return entry.version;
  }

  async delete(key: SessionKey, expected?: string): Promise<boolean> {
    const entries = this.#entries(key);
    if (expected !== undefined) refuseConflict(key, expected, entries.get(key.id)?.version);
    return entries.delete(key.id);
  }

  async list(query: ListQuery): Promise<ListPage> {
    const checked = checkQuery(query);
    this.#refuseClosed();
    return pageOf(this.#namespaces.get(checked.namespace)?.keys() ?? [], checked);
  }

  async acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease> {
    const now = this.#now();
    const lease = newLease(key, holder, ttlMs, now);
    this.#refuseClosed();
    refuseHeld(key, this.#leases.get(leaseName(key)), now);
    this.#leases.set(leaseName(key), lease);
    return lease;
  }

  async renewLease(lease: Lease, ttlMs: number): Promise<Lease> {
    checkKey(lease.key);
    checkTtl(ttlMs);
    this.#refuseClosed();
    const now = this.#now();
    refuseLost(lease, this.#leases.get(leaseName(lease.key)), now);
    const renewed = { ...lease, expires: now + ttlMs };
    this.#leases.set(leaseName(lease.key), renewed);
    return renewed;
  }

  async releaseLease(lease: Lease): Promise<void> {
    checkKey(lease.key);
    this.#refuseClosed();
    const name = leaseName(lease.key);
    if (this.#leases.get(name)?.token === lease.token) this.#leases.delete(name);
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #refuseClosed(): void {
    if (this.#closed) throw closedStore("in-memory");
  }

  #entries(key: SessionKey): Map<string, Entry> {
    checkKey(key);
    this.#refuseClosed();
    const found = this.#namespaces.get(key.namespace) ?? new Map<string, Entry>();
    this.#namespaces.set(key.namespace, found);
    return found;
  }
}

function leaseName({ namespace, id }: SessionKey): string {
  return `${namespace}/${id}`;
}
