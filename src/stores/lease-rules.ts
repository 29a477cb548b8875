/** @file Who may have a lease; shared by the stores that keep leases as records. */
import { randomUUID } from "node:crypto";
import { PrecisError } from "../errors.js";
import { checkHolder, checkKey, checkTtl } from "./session-key.js";
import type { Lease, SessionKey } from "./store.js";

/** What is stored of a lease. */
export interface LeaseRecord {
  token: string;
  holder: string;
  /** Milliseconds since 1970. */
  expires: number;
}

/** The LEASE_HELD error. */
export function leaseHeld(key: SessionKey, { holder, expires }: { holder: string; expires: number }): PrecisError {
  return new PrecisError("LEASE_HELD", `Session "${key.id}" is in use by ${holder}.`, {
    value: { holder, expires },
    nextStep: `Try again after ${new Date(expires).toISOString()}, when its lease ends unless renewed.`,
  });
}

/** The LEASE_LOST error. */
export function leaseLost({ key, holder }: Lease): PrecisError {
  return new PrecisError("LEASE_LOST", `${holder} no longer holds the lease of session "${key.id}".`, {
    value: key.id,
    nextStep: "Acquire it anew and read the session again.",
  });
}

/** A lease that nobody holds yet, for `ttlMs` from `now`. @throws INPUT_INVALID */
export function newLease(key: SessionKey, holder: string, ttlMs: number, now: number): Lease {
  checkKey(key);
  checkHolder(holder);
  checkTtl(ttlMs);
  return { key: { namespace: key.namespace, id: key.id }, token: randomUUID(), holder, expires: now + ttlMs };
}

/** @throws LEASE_HELD if `current` runs at `now` */
export function refuseHeld(key: SessionKey, current: LeaseRecord | undefined, now: number): void {
  if (current !== undefined && current.expires > now) throw leaseHeld(key, current);
}

/** @throws LEASE_LOST unless `current` is this lease and runs at `now` */
export function refuseLost(lease: Lease, current: LeaseRecord | undefined, now: number): void {
  if (current?.token !== lease.token || current.expires <= now) throw leaseLost(lease);
}
