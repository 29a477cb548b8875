/** @file Sessions in Redis or Valkey, shared by any number of machines; each change is one script, run alone. */
import type { Redis } from "ioredis";
import { conflict, unavailable } from "./conflicts.js";
import { corruptSession, decodeFrame, frameValue, VERSION_CHARACTERS } from "./frame.js";
import { leaseHeld, leaseLost, newLease } from "./lease-rules.js";
import { Operations } from "./operations.js";
import { optionalPackage } from "./optional-package.js";
import { checkKey, checkQuery, checkTtl } from "./session-key.js";
import type { Lease, ListPage, ListQuery, SessionKey, SessionStore, SessionValue, StoredSession } from "./store.js";

/*
 * Keys, all of a namespace in one slot of a cluster by its {…}:
 *   precis:{namespace}:session:ID  the version (36 characters) and the frame
 *   precis:{namespace}:ids         a sorted set of the ids, all of score 0 and so in order of their bytes
 *   precis:{namespace}:lease:ID    a hash of token, holder and expires, gone when it expires
 * Scripts return the version they found where it is not the expected one; "-" stands for no session.
 */

/** KEYS: session, ids. ARGV: expected version, id, new value. */
const PUT = `
local found = redis.call("GETRANGE", KEYS[1], 0, 35)
if found == "" then found = "-" end
if found ~= ARGV[1] then return found end
redis.call("SET", KEYS[1], ARGV[3])
redis.call("ZADD", KEYS[2], 0, ARGV[2])
return false`;

/** KEYS: session, ids. ARGV: expected version or "", id. Returns 1 or 0, or the other version. */
const DELETE = `
local existed = redis.call("EXISTS", KEYS[1])
if ARGV[1] ~= "" then
  local found = redis.call("GETRANGE", KEYS[1], 0, 35)
  if found == "" then found = "-" end
  if found ~= ARGV[1] then return found end
end
redis.call("DEL", KEYS[1])
redis.call("ZREM", KEYS[2], ARGV[2])
return existed`;

const NOW = `local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

/**
 * KEYS: lease. ARGV: token, holder, duration. Returns {0, end} or {1, end, holder of the other}. A request that was sent
 * again after its answer got lost finds its own token.
 */
const ACQUIRE = `${NOW}
local ends = tonumber(redis.call("HGET", KEYS[1], "expires") or "0")
if ends > now and redis.call("HGET", KEYS[1], "token") ~= ARGV[1] then
  return {1, ends, redis.call("HGET", KEYS[1], "holder")}
end
redis.call("HSET", KEYS[1], "token", ARGV[1], "holder", ARGV[2], "expires", string.format("%.0f", now + ARGV[3]))
redis.call("PEXPIRE", KEYS[1], ARGV[3])
return {0, now + ARGV[3]}`;

/** KEYS: lease. ARGV: token, duration. Returns the end, or 0 if it was lost. */
const RENEW = `${NOW}
local ends = tonumber(redis.call("HGET", KEYS[1], "expires") or "0")
if redis.call("HGET", KEYS[1], "token") ~= ARGV[1] or ends <= now then return 0 end
redis.call("HSET", KEYS[1], "expires", string.format("%.0f", now + ARGV[2]))
redis.call("PEXPIRE", KEYS[1], ARGV[2])
return now + ARGV[2]`;

/** KEYS: lease. ARGV: token. */
const RELEASE = `if redis.call("HGET", KEYS[1], "token") == ARGV[1] then redis.call("DEL", KEYS[1]) end`;

const NONE = "-";

/**
 * A {@link SessionStore} in a Redis or Valkey server (Redis 6.2 or later). Leases go by the server's clock. A write is
 * as durable as the server is set up to make it: with `appendonly yes` and `appendfsync always`, it is on disk before it
 * is acknowledged; with Redis's own defaults, a crash of the server may lose the last minutes.
 */
export class RedisStore implements SessionStore {
  readonly #redis: Redis;
  readonly #operations = new Operations("Redis");

  private constructor(redis: Redis) {
    this.#redis = redis;
  }

  /**
   * Connects to a server.
   * @param url such as `redis://user:password@host:6379/0`; `rediss:` for TLS
   * @param options.timeoutMs how long an operation may take, reconnecting included, by default 10 s
   * @throws DEPENDENCY_MISSING without the package ioredis; STORE_UNAVAILABLE if there is no such server
   */
  static async open(url: string, { timeoutMs = 10_000 }: { timeoutMs?: number } = {}): Promise<RedisStore> {
    const { Redis } = await optionalPackage("ioredis", () => import("ioredis"));
    const redis = new Redis(url, {
      lazyConnect: true,
      maxRetriesPerRequest: 3,
      commandTimeout: timeoutMs,
      retryStrategy: (times) => Math.min(50 * times, 500),
    });
    // Every operation reports its own failure; without a listener the client would also print each.
    redis.on("error", () => undefined);
    try {
      await redis.connect();
    } catch (error) {
      redis.disconnect();
      throw unavailable("Redis", error);
    }
    return new RedisStore(redis);
  }

  get(key: SessionKey): Promise<StoredSession | undefined> {
    return this.#operations.run(async () => {
      checkKey(key);
      const stored = await this.#redis.getBuffer(nameOf(key, "session"));
      if (stored === null) return undefined;
      const session = decodeFrame(key, stored.subarray(VERSION_CHARACTERS));
      if (session.version === stored.toString("latin1", 0, VERSION_CHARACTERS)) return session;
      throw corruptSession(key, "its version does not fit");
    });
  }

  put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    return this.#operations.run(async () => {
      checkKey(key);
      const { version, frame } = frameValue(key, value);
      const stored = Buffer.concat([Buffer.from(version), frame]);
      const names = [nameOf(key, "session"), idsOf(key.namespace)];
      const found = await this.#redis.eval(PUT, 2, ...names, expected ?? NONE, key.id, stored);
      // A request that was sent again after its answer got lost finds what it wrote itself.
      if (found !== null && found !== version) throw conflict(key, expected, versionOf(found));
      return version;
    });
  }

  delete(key: SessionKey, expected?: string): Promise<boolean> {
    return this.#operations.run(async () => {
      checkKey(key);
      const names = [nameOf(key, "session"), idsOf(key.namespace)];
      const found = await this.#redis.eval(DELETE, 2, ...names, expected ?? "", key.id);
      if (typeof found === "string") throw conflict(key, expected, versionOf(found));
      return found === 1;
    });
  }

  list(query: ListQuery): Promise<ListPage> {
    return this.#operations.run(async () => {
      const { namespace, prefix, after, limit } = checkQuery(query);
      const from = after >= prefix && after !== "" ? `(${after}` : `[${prefix}`;
      // No id has a character beyond "~".
      const found = await this.#redis.zrangebylex(idsOf(namespace), from, `[${prefix}~`, "LIMIT", 0, limit + 1);
      const ids = found.slice(0, limit);
      return { ids, next: found.length > limit ? ids.at(-1) : undefined };
    });
  }

  acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      const lease = newLease(key, holder, ttlMs, Date.now());
      const answer = await this.#redis.eval(ACQUIRE, 1, nameOf(key, "lease"), lease.token, holder, ttlMs);
      const [held, expires, other] = answer as [number, number, string];
      if (held === 1) throw leaseHeld(key, { holder: other, expires });
      return { ...lease, expires };
    });
  }

  renewLease(lease: Lease, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      checkTtl(ttlMs);
      const expires = await this.#redis.eval(RENEW, 1, nameOf(lease.key, "lease"), lease.token, ttlMs);
      if (expires === 0) throw leaseLost(lease);
      return { ...lease, expires: Number(expires) };
    });
  }

  releaseLease(lease: Lease): Promise<void> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      await this.#redis.eval(RELEASE, 1, nameOf(lease.key, "lease"), lease.token);
    });
  }

  close(): Promise<void> {
    return this.#operations.close(() => this.#redis.disconnect());
  }
}

function nameOf({ namespace, id }: SessionKey, kind: "session" | "lease"): string {
  return `precis:{${namespace}}:${kind}:${id}`;
}

function idsOf(namespace: string): string {
  return `precis:{${namespace}}:ids`;
}

function versionOf(found: unknown): string | undefined {
  return found === NONE ? undefined : String(found);
}
