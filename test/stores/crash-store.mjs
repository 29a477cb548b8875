/** Opens the store that is crashed, in the tests and in the processes that they kill. */
import { FileStore } from "#precis/stores/file-store.js";
import { LmdbStore } from "#precis/stores/lmdb-store.js";

export const key = { namespace: "crash", id: "session" };

const KINDS = {
  file: async (folder) => new FileStore(folder),
  lmdb: LmdbStore.open,
};

export const openStore = (kind, folder) => KINDS[kind](folder);
