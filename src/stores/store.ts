/** @file The one interface of where sessions live: values with versions, and leases. Every store passes one suite. */

/** A value that survives `JSON.stringify`. */
export type JsonValue =
  string | number | boolean | null | readonly JsonValue[] | { readonly [name: string]: JsonValue };

/** Which session. Namespaces are separate worlds: an id of one says nothing about the same id of another. */
export interface SessionKey {
  /** 1 to 64 letters, digits, `-` or `_`, the first no sign; see `namespaceOf` for one per API key. */
  readonly namespace: string;
  /** 1 to 128 letters, digits, `-`, `_` or `.`, the first a letter or digit. */
  readonly id: string;
}

/** What is kept of a session. */
export interface SessionValue {
  /** The snapshot. */
  readonly bytes: Uint8Array;
  /** What programs want to know of a session without restoring it; JSON. */
  readonly metadata: Readonly<Record<string, JsonValue>>;
}

/** A value as it was read. */
export interface StoredSession extends SessionValue {
  /** Names this one write, and no other: opaque, never used again, not even after the session was deleted. */
  readonly version: string;
}

/** Which ids {@link SessionStore.list} returns. */
export interface ListQuery {
  readonly namespace: string;
  /** Only ids that begin so. */
  readonly prefix?: string;
  /** Only ids beyond this one, in order; the last id of the page before. */
  readonly after?: string;
  /** The largest number of ids, 1 to 1000; by default 100. */
  readonly limit?: number;
}

/** A page of ids. */
export interface ListPage {
  /** In ascending order of their characters' codes. */
  readonly ids: readonly string[];
  /** What to pass as `after` for the next page; undefined where there is none. */
  readonly next: string | undefined;
}

/** The right to work on a session for a while. It keeps work from being done twice; versions keep it from being lost. */
export interface Lease {
  readonly key: SessionKey;
  /** Names this grant. */
  readonly token: string;
  /** Who holds it, for people to read. */
  readonly holder: string;
  /** When it ends, in milliseconds since 1970 by the store's clock. */
  readonly expires: number;
}

/**
 * Where sessions live. Every write is atomic and durable once its promise resolves, and every read is checked.
 * All methods throw INPUT_INVALID for a key, limit or duration out of bounds, STORE_UNAVAILABLE where the store cannot
 * be reached or was closed, and STORE_CORRUPT where what it holds was changed.
 */
export interface SessionStore {
  /** The session, or undefined. */
  get(key: SessionKey): Promise<StoredSession | undefined>;
  /**
   * Writes a session if nobody else did since it was read.
   * @param expected the version that was read; undefined if the session must not exist yet
   * @returns the new version
   * @throws STORE_CONFLICT if it has another version, and is left as it is
   */
  put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string>;
  /**
   * Deletes a session; its lease stays.
   * @param expected delete only this version
   * @returns whether there was one
   * @throws STORE_CONFLICT if it has another version
   */
  delete(key: SessionKey, expected?: string): Promise<boolean>;
  /** Ids of a namespace, in order, page by page. */
  list(query: ListQuery): Promise<ListPage>;
  /**
   * Takes the lease of a session, which need not exist yet, if nobody holds it.
   * @param holder who asks, for people to read: 1 to 100 printable ASCII characters
   * @param ttlMs how long, 1 ms to a day
   * @throws LEASE_HELD with the holder and the time it ends
   */
  acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease>;
  /**
   * The same lease for `ttlMs` from now.
   * @throws LEASE_LOST once it has expired or was taken
   */
  renewLease(lease: Lease, ttlMs: number): Promise<Lease>;
  /** Gives a lease back; does nothing if it was lost already. */
  releaseLease(lease: Lease): Promise<void>;
  /** Waits for what is under way, then lets go of everything. May be called twice. */
  close(): Promise<void>;
}
