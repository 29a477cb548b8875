/** @file Errors that every store throws alike. */
import { PrecisError } from "../errors.js";
import type { SessionKey } from "./store.js";

/** The STORE_CONFLICT error: somebody else wrote first. `found` is undefined where the session does not exist. */
export function conflict(key: SessionKey, expected: string | undefined, found: string | undefined): PrecisError {
  const is = (version: string | undefined): string => (version === undefined ? "no session" : `version ${version}`);
  return new PrecisError(
    "STORE_CONFLICT",
    `Session "${key.id}" was changed by somebody else: there is ${is(found)} where ${is(expected)} was expected.`,
    { value: found, nextStep: "Read it again and repeat the change." },
  );
}

/** @throws STORE_CONFLICT unless the versions are the same */
export function refuseConflict(key: SessionKey, expected: string | undefined, found: string | undefined): void {
  if (found !== expected) throw conflict(key, expected, found);
}

/** The STORE_UNAVAILABLE error of a failed operation; a PrecisError stays what it is. */
export function unavailable(store: string, error: unknown): PrecisError {
  return PrecisError.from(
    error,
    "STORE_UNAVAILABLE",
    `The ${store} store failed`,
    "Check that it is reachable, has space and may be written; then try again.",
  );
}

/** The STORE_UNAVAILABLE error of a store that was closed. */
export function closedStore(store: string): PrecisError {
  return new PrecisError("STORE_UNAVAILABLE", `The ${store} store was closed.`, { nextStep: "Open it again." });
}
