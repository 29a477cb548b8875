/** @file Sessions in a bucket of Amazon S3 or a server like it, shared by any number of machines. */
import { conflict, unavailable } from "./conflicts.js";
import { corruptSession, decodeFrame, frameValue } from "./frame.js";
import { leaseLost, newLease, refuseHeld, refuseLost, type LeaseRecord } from "./lease-rules.js";
import { Operations } from "./operations.js";
import { optionalPackage } from "./optional-package.js";
import { S3Objects } from "./s3-objects.js";
import { parseS3Url } from "./s3-url.js";
import { checkKey, checkQuery, checkTtl } from "./session-key.js";
import type { Lease, ListPage, ListQuery, SessionKey, SessionStore, SessionValue, StoredSession } from "./store.js";

/** How long a connection may take to be made, and an answer to begin. */
const CONNECT_MS = 5000;
const REQUEST_MS = 30_000;

/** How to reach a bucket. */
export interface S3Options {
  /** Without them, the AWS SDK looks where it always does: the environment, the shared files, the machine's role. */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string };
}

/**
 * A {@link SessionStore} in a bucket: an object `PREFIX/sessions/NAMESPACE/ID` for each session and
 * `PREFIX/leases/NAMESPACE/ID` for each lease. The server must have conditional writes (If-Match and If-None-Match), which
 * opening makes sure of; versions are ETags. Leases go by the clocks of the machines, which must be about equal. Where the
 * server cannot delete on condition, deleted versions and ended leases leave objects of 7 bytes.
 */
export class S3Store implements SessionStore {
  readonly #objects: S3Objects;
  readonly #prefix: string;
  readonly #operations = new Operations("S3");

  private constructor(objects: S3Objects, prefix: string) {
    this.#objects = objects;
    this.#prefix = prefix;
  }

  /**
   * Opens a bucket, which must exist.
   * @param url such as `s3://bucket/prefix`, for servers other than Amazon's with `?endpoint=http://host:port`; `region`
   * and `style=path|host` may be added the same way
   * @throws DEPENDENCY_MISSING without the package `@aws-sdk/client-s3`; OPTION_INVALID for another URL;
   * STORE_UNAVAILABLE if the bucket cannot be written, or the server ignores conditions
   */
  static async open(url: string, { credentials }: S3Options = {}): Promise<S3Store> {
    const { bucket, prefix, endpoint, region, pathStyle } = parseS3Url(url);
    const sdk = await optionalPackage("@aws-sdk/client-s3", () => import("@aws-sdk/client-s3"));
    const client = new sdk.S3Client({
      region,
      forcePathStyle: pathStyle,
      ...(endpoint === undefined ? {} : { endpoint }),
      ...(credentials === undefined ? {} : { credentials }),
      maxAttempts: 3,
      requestHandler: { connectionTimeout: CONNECT_MS, requestTimeout: REQUEST_MS },
      // Frames have checksums of their own, and not every server knows these.
      requestChecksumCalculation: "WHEN_REQUIRED",
      responseChecksumValidation: "WHEN_REQUIRED",
    });
    const objects = new S3Objects(sdk, client, bucket);
    try {
      await objects.probe(`${prefix}probe`);
    } catch (error) {
      objects.close();
      throw unavailable("S3", error);
    }
    return new S3Store(objects, prefix);
  }

  get(key: SessionKey): Promise<StoredSession | undefined> {
    return this.#operations.run(async () => {
      checkKey(key);
      const found = await this.#objects.get(this.#session(key));
      // Whoever wrote the frame could not know its ETag yet.
      return found && { ...decodeFrame(key, found.body), version: found.etag };
    });
  }

  put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    return this.#operations.run(async () => {
      checkKey(key);
      const { frame } = frameValue(key, value);
      const version = await this.#objects.put(this.#session(key), frame, expected);
      if (version === undefined) throw conflict(key, expected, await this.#objects.etag(this.#session(key)));
      return version;
    });
  }

  delete(key: SessionKey, expected?: string): Promise<boolean> {
    return this.#operations.run(async () => {
      checkKey(key);
      const name = this.#session(key);
      if (expected === undefined) return this.#objects.remove(name);
      if (await this.#objects.removeIf(name, expected)) return true;
      throw conflict(key, expected, await this.#objects.etag(name));
    });
  }

  list(query: ListQuery): Promise<ListPage> {
    return this.#operations.run(async () => {
      const { namespace, prefix, after, limit } = checkQuery(query);
      const space = this.#session({ namespace, id: "" });
      const names = await this.#objects.names(space + prefix, space + after, limit + 1);
      const ids = names.slice(0, limit).map((name) => name.slice(space.length));
      return { ids, next: names.length > limit ? ids.at(-1) : undefined };
    });
  }

  acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      newLease(key, holder, ttlMs, Date.now());
      for (;;) {
        const current = await this.#leaseNow(key);
        const now = Date.now();
        refuseHeld(key, current?.record, now);
        const lease = newLease(key, holder, ttlMs, now);
        if (await this.#putLease(lease, current?.etag)) return lease;
      }
    });
  }

  renewLease(lease: Lease, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      checkTtl(ttlMs);
      const current = await this.#leaseNow(lease.key);
      const now = Date.now();
      refuseLost(lease, current?.record, now);
      const renewed = { ...lease, expires: now + ttlMs };
      if (await this.#putLease(renewed, current?.etag)) return renewed;
      throw leaseLost(lease);
    });
  }

  releaseLease(lease: Lease): Promise<void> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      const current = await this.#leaseNow(lease.key);
      if (current?.record.token === lease.token) await this.#objects.removeIf(this.#lease(lease.key), current.etag);
    });
  }

  close(): Promise<void> {
    return this.#operations.close(() => this.#objects.close());
  }

  async #leaseNow(key: SessionKey): Promise<{ etag: string; record: LeaseRecord } | undefined> {
    const found = await this.#objects.get(this.#lease(key));
    if (found === undefined) return undefined;
    const record = readLease(found.body);
    if (record === undefined) throw corruptSession(key, "its lease is no lease");
    return { etag: found.etag, record };
  }

  async #putLease({ key, token, holder, expires }: Lease, expected: string | undefined): Promise<boolean> {
    const body = new TextEncoder().encode(JSON.stringify({ token, holder, expires }));
    return (await this.#objects.put(this.#lease(key), body, expected)) !== undefined;
  }

  #session({ namespace, id }: SessionKey): string {
    return `${this.#prefix}sessions/${namespace}/${id}`;
  }

  #lease({ namespace, id }: SessionKey): string {
    return `${this.#prefix}leases/${namespace}/${id}`;
  }
}

function readLease(body: Uint8Array): LeaseRecord | undefined {
  try {
    const { token, holder, expires } = JSON.parse(new TextDecoder().decode(body)) as Partial<LeaseRecord>;
    if (typeof token !== "string" || typeof holder !== "string" || typeof expires !== "number") return undefined;
    return { token, holder, expires };
  } catch {
    return undefined;
  }
}
