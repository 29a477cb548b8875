/** @file Sessions in PostgreSQL, shared by any number of machines; each change is one statement. */
import type { Pool, QueryResult, QueryResultRow } from "pg";
import { conflict, unavailable } from "./conflicts.js";
import { corruptSession, decodeFrame, frameValue } from "./frame.js";
import { leaseHeld, leaseLost, newLease } from "./lease-rules.js";
import { Operations } from "./operations.js";
import { optionalPackage } from "./optional-package.js";
import { checkKey, checkQuery, checkTtl } from "./session-key.js";
import type { Lease, ListPage, ListQuery, SessionKey, SessionStore, SessionValue, StoredSession } from "./store.js";

/** Made by the first connection; the number is that of a lock, since `if not exists` alone fails when two run at once. */
const SCHEMA = `
begin;
select pg_advisory_xact_lock(7214937101);
create table if not exists precis_sessions (
  namespace text collate "C" not null,
  id text collate "C" not null,
  version text not null,
  frame bytea not null,
  primary key (namespace, id)
);
create table if not exists precis_leases (
  namespace text collate "C" not null,
  id text collate "C" not null,
  token text not null,
  holder text not null,
  expires timestamptz not null,
  primary key (namespace, id)
);
commit`;

const LEASE_ENDS = "clock_timestamp() + $3 * interval '1 millisecond'";
/** Milliseconds since 1970, rounded so that no two ends look alike that are not. */
const EXPIRES = "floor(extract(epoch from expires) * 1000)::float8 as expires";

/**
 * A {@link SessionStore} in the tables `precis_sessions` and `precis_leases` of a PostgreSQL database, which are made
 * if need be. Leases go by the server's clock.
 */
export class PostgresStore implements SessionStore {
  readonly #pool: Pool;
  readonly #operations = new Operations("PostgreSQL");

  private constructor(pool: Pool) {
    this.#pool = pool;
  }

  /**
   * Connects to a database.
   * @param url such as `postgres://user:password@host:5432/database`
   * @param options.connections the largest number of connections, by default 10
   * @param options.timeoutMs how long a statement may take, by default 30 s
   * @throws DEPENDENCY_MISSING without the package pg; STORE_UNAVAILABLE if there is no such database
   */
  static async open(
    url: string,
    { connections = 10, timeoutMs = 30_000 }: { connections?: number; timeoutMs?: number } = {},
  ): Promise<PostgresStore> {
    const { default: pg } = await optionalPackage("pg", () => import("pg"));
    const pool = new pg.Pool({
      connectionString: url,
      max: connections,
      connectionTimeoutMillis: Math.min(10_000, timeoutMs),
      query_timeout: timeoutMs,
      keepAlive: true,
    });
    // A connection that breaks while nobody uses it is replaced by the next operation.
    pool.on("error", () => undefined);
    try {
      await pool.query(SCHEMA);
    } catch (error) {
      await pool.end();
      throw unavailable("PostgreSQL", error);
    }
    return new PostgresStore(pool);
  }

  get(key: SessionKey): Promise<StoredSession | undefined> {
    return this.#operations.run(async () => {
      checkKey(key);
      const { rows } = await this.#query<{ version: string; frame: Buffer }>(
        "select version, frame from precis_sessions where namespace = $1 and id = $2",
        [key.namespace, key.id],
      );
      if (rows[0] === undefined) return undefined;
      const session = decodeFrame(key, rows[0].frame);
      if (session.version === rows[0].version) return session;
      throw corruptSession(key, "its version does not fit");
    });
  }

  put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    return this.#operations.run(async () => {
      checkKey(key);
      const { version, frame } = frameValue(key, value);
      const parameters: unknown[] = [key.namespace, key.id, version, Buffer.from(frame.buffer)];
      const { rowCount } =
        expected === undefined
          ? await this.#query("insert into precis_sessions values ($1, $2, $3, $4) on conflict do nothing", parameters)
          : await this.#query(
              "update precis_sessions set version = $3, frame = $4 where namespace = $1 and id = $2 and version = $5",
              [...parameters, expected],
            );
      if (rowCount !== 1) throw conflict(key, expected, await this.#versionNow(key));
      return version;
    });
  }

  delete(key: SessionKey, expected?: string): Promise<boolean> {
    return this.#operations.run(async () => {
      checkKey(key);
      const { rowCount } = await this.#query(
        "delete from precis_sessions where namespace = $1 and id = $2 and ($3::text is null or version = $3)",
        [key.namespace, key.id, expected ?? null],
      );
      if (rowCount === 0 && expected !== undefined) throw conflict(key, expected, await this.#versionNow(key));
      return rowCount === 1;
    });
  }

  list(query: ListQuery): Promise<ListPage> {
    return this.#operations.run(async () => {
      const { namespace, prefix, after, limit } = checkQuery(query);
      const { rows } = await this.#query<{ id: string }>(
        "select id from precis_sessions where namespace = $1 and starts_with(id, $2) and id > $3 order by id limit $4",
        [namespace, prefix, after, limit + 1],
      );
      const ids = rows.slice(0, limit).map(({ id }) => id);
      return { ids, next: rows.length > limit ? ids.at(-1) : undefined };
    });
  }

  acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      const lease = newLease(key, holder, ttlMs, Date.now());
      for (;;) {
        const granted = await this.#query<{ expires: number }>(
          `insert into precis_leases as held values ($1, $2, $4, $5, ${LEASE_ENDS})
           on conflict (namespace, id) do update
             set token = excluded.token, holder = excluded.holder, expires = ${LEASE_ENDS}
             where held.expires <= clock_timestamp()
           returning ${EXPIRES}`,
          [key.namespace, key.id, ttlMs, lease.token, holder],
        );
        if (granted.rows[0] !== undefined) return { ...lease, expires: granted.rows[0].expires };
        const held = await this.#query<{ holder: string; expires: number }>(
          `select holder, ${EXPIRES} from precis_leases where namespace = $1 and id = $2`,
          [key.namespace, key.id],
        );
        // Released in between: try again.
        if (held.rows[0] !== undefined) throw leaseHeld(key, held.rows[0]);
      }
    });
  }

  renewLease(lease: Lease, ttlMs: number): Promise<Lease> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      checkTtl(ttlMs);
      const { rows } = await this.#query<{ expires: number }>(
        `update precis_leases set expires = ${LEASE_ENDS}
         where namespace = $1 and id = $2 and token = $4 and expires > clock_timestamp() returning ${EXPIRES}`,
        [lease.key.namespace, lease.key.id, ttlMs, lease.token],
      );
      if (rows[0] === undefined) throw leaseLost(lease);
      return { ...lease, expires: rows[0].expires };
    });
  }

  releaseLease(lease: Lease): Promise<void> {
    return this.#operations.run(async () => {
      checkKey(lease.key);
      await this.#query("delete from precis_leases where namespace = $1 and id = $2 and token = $3", [
        lease.key.namespace,
        lease.key.id,
        lease.token,
      ]);
    });
  }

  close(): Promise<void> {
    return this.#operations.close(() => this.#pool.end());
  }

  #query<Row extends QueryResultRow>(text: string, parameters: readonly unknown[]): Promise<QueryResult<Row>> {
    return this.#pool.query<Row>(text, [...parameters]);
  }

  async #versionNow({ namespace, id }: SessionKey): Promise<string | undefined> {
    const { rows } = await this.#query<{ version: string }>(
      "select version from precis_sessions where namespace = $1 and id = $2",
      [namespace, id],
    );
    return rows[0]?.version;
  }
}
