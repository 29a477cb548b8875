/** @file `--store`: where the server keeps sessions. */
import { homedir } from "node:os";
import { join } from "node:path";
import {
  EncryptedStore,
  FileStore,
  LmdbStore,
  MemoryStore,
  PostgresStore,
  RedisStore,
  S3Store,
  type SessionStore,
} from "../../index.js";
import { PrecisError } from "../../errors.js";

/** The folder of sessions unless told otherwise: `$XDG_DATA_HOME/precis/sessions`, else that of `~/.local/share`. */
export function defaultStoreFolder(): string {
  const { XDG_DATA_HOME: data } = process.env;
  return join(data === undefined || data === "" ? join(homedir(), ".local", "share") : data, "precis", "sessions");
}

/** A store, and what it is called. */
export interface ChosenStore {
  store: SessionStore;
  description: string;
}

/**
 * Opens `none` (sessions end with the server), `lmdb:FOLDER`, `redis://…` or `rediss://…`, `postgres://…`,
 * `s3://BUCKET/PREFIX?endpoint=…`, or a folder of files. With `PRECIS_STORE_KEY` in the environment, what is stored is
 * encrypted with it.
 * @throws STORE_UNAVAILABLE, DEPENDENCY_MISSING; OPTION_INVALID for another address or a key of the wrong size
 */
export async function openStore(text: string = defaultStoreFolder()): Promise<ChosenStore> {
  if (text === "none") return { store: new MemoryStore(), description: "in this process only" };
  const plain = await openPlain(text);
  // What is shown and logged must not have the password.
  const description = text.replace(/\/\/[^@/]*@/, "//");
  const { PRECIS_STORE_KEY: key } = process.env;
  if (key === undefined || key === "") return { store: plain, description };
  return { store: new EncryptedStore(plain, { key }), description: `${description}, encrypted` };
}

async function openPlain(text: string): Promise<SessionStore> {
  const [, scheme] = /^([a-z0-9+.-]+):\/\//i.exec(text) ?? [];
  switch (scheme) {
    case undefined:
      return text.startsWith("lmdb:") ? LmdbStore.open(text.slice("lmdb:".length)) : new FileStore(text);
    case "redis":
    case "rediss":
      return RedisStore.open(text);
    case "postgres":
    case "postgresql":
      return PostgresStore.open(text);
    case "s3":
      return S3Store.open(text);
    default:
      // Taken for a folder, a mistyped address with a password would become a name on disk.
      throw new PrecisError("OPTION_INVALID", `There is no store for ${scheme}:// addresses.`, {
        value: scheme,
        nextStep: "Use a folder, lmdb:FOLDER, redis://…, postgres://…, s3://BUCKET/PREFIX or none.",
      });
  }
}
