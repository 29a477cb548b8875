/** @file `--store`: where the server keeps sessions. */
import { homedir } from "node:os";
import { join } from "node:path";
import { EncryptedStore, FileStore, LmdbStore, MemoryStore, type SessionStore } from "../../index.js";

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
 * Opens `none` (sessions end with the server), `lmdb:FOLDER`, or a folder of files. With `PRECIS_STORE_KEY` in the
 * environment, what is stored is encrypted with it.
 * @throws STORE_UNAVAILABLE, OPTION_INVALID for a key of the wrong size
 */
export async function openStore(text: string = defaultStoreFolder()): Promise<ChosenStore> {
  if (text === "none") return { store: new MemoryStore(), description: "in this process only" };
  const isLmdb = text.startsWith("lmdb:");
  const folder = isLmdb ? text.slice("lmdb:".length) : text;
  const plain = isLmdb ? await LmdbStore.open(folder) : new FileStore(folder);
  const { PRECIS_STORE_KEY: key } = process.env;
  if (key === undefined || key === "") return { store: plain, description: text };
  return { store: new EncryptedStore(plain, { key }), description: `${text}, encrypted` };
}
