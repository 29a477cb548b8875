/** @file Which keys, pages and durations stores accept, so that no id can name anything but a session. */
import { createHash } from "node:crypto";
import { PrecisError } from "../errors.js";
import type { ListQuery, SessionKey } from "./store.js";

const NAMESPACE = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const HOLDER = /^[\x20-\x7e]{1,100}$/;
/** The longest page. */
const MAX_LIMIT = 1000;
const DEFAULT_LIMIT = 100;
const DAY_MS = 86_400_000;

function invalid(what: string, value: unknown, nextStep: string): PrecisError {
  const shown = typeof value === "string" ? JSON.stringify(value.slice(0, 140)) : String(value);
  return new PrecisError("INPUT_INVALID", `${what} ${shown} cannot be used.`, { value, nextStep });
}

/** @throws INPUT_INVALID unless it is a namespace's name */
export function checkNamespace(namespace: string): void {
  if (typeof namespace === "string" && NAMESPACE.test(namespace)) return;
  throw invalid("The namespace", namespace, "Use 1 to 64 letters, digits, - or _, a letter or digit first.");
}

/** @throws INPUT_INVALID unless both parts of the key are names */
export function checkKey({ namespace, id }: SessionKey): void {
  checkNamespace(namespace);
  if (typeof id === "string" && ID.test(id)) return;
  throw invalid("The session id", id, "Use 1 to 128 letters, digits, -, _ or ., a letter or digit first.");
}

/**
 * A query with its defaults.
 * @throws INPUT_INVALID
 */
export function checkQuery(query: ListQuery): Required<ListQuery> {
  const { namespace, prefix = "", after = "", limit = DEFAULT_LIMIT } = query;
  checkNamespace(namespace);
  for (const [name, value] of Object.entries({ prefix, after })) {
    if (value !== "" && !ID.test(value)) throw invalid(`The ${name}`, value, "Use an id or its beginning.");
  }
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    throw invalid("The limit", limit, `Use a whole number from 1 to ${MAX_LIMIT}.`);
  }
  return { namespace, prefix, after, limit };
}

/** @throws INPUT_INVALID unless a lease can last so long */
export function checkTtl(ttlMs: number): void {
  if (Number.isInteger(ttlMs) && ttlMs >= 1 && ttlMs <= DAY_MS) return;
  throw invalid("The duration of a lease", ttlMs, `Use whole milliseconds from 1 to ${DAY_MS}.`);
}

/** @throws INPUT_INVALID unless it can name who holds a lease */
export function checkHolder(holder: string): void {
  if (typeof holder === "string" && HOLDER.test(holder)) return;
  throw invalid("The holder of a lease", holder, "Use 1 to 100 printable ASCII characters.");
}

/** The namespace of an API key: a digest, so that no store ever holds the key. */
export function namespaceOf(apiKey: string): string {
  return createHash("sha256").update(`precis namespace\0${apiKey}`).digest("hex").slice(0, 32);
}
