/** @file Changing a session that others may change too: read, change, write, and again after a conflict. */
import { PrecisError } from "../errors.js";
import type { SessionKey, SessionStore, SessionValue, StoredSession } from "./store.js";

/** The longest pause between two attempts. */
const MAX_PAUSE_MS = 200;

function isConflict(error: unknown): boolean {
  return error instanceof PrecisError && error.code === "STORE_CONFLICT";
}

/**
 * Writes what `change` makes of the session as it is now; after a conflict, of the session as somebody else left it.
 * So no change that anybody was told of is lost. `change` may be called several times.
 * @param options.attempts how often to try, by default 20, with random pauses that grow to 200 ms
 * @returns the session as it was written
 * @throws STORE_CONFLICT after the last attempt; what the store and `change` throw
 */
export async function updateSession(
  store: SessionStore,
  key: SessionKey,
  change: (current: StoredSession | undefined) => SessionValue | Promise<SessionValue>,
  { attempts = 20 }: { attempts?: number } = {},
): Promise<StoredSession> {
  for (let attempt = 1; ; attempt++) {
    const current = await store.get(key);
    const next = await change(current);
    try {
      return { ...next, version: await store.put(key, next, current?.version) };
    } catch (error) {
      if (!isConflict(error) || attempt >= attempts) throw error;
    }
    const pause = Math.random() * Math.min(2 ** attempt, MAX_PAUSE_MS);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}
