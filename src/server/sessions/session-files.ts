/**
 * @file Sessions in a store: a record under the session's id, and a snapshot under `id.NAME` for each state. Snapshots of
 * sessions that only grow leave out their complete runs of rows, which lie under `id.SERIAL-DIGEST` once for all states.
 */
import { webcrypto } from "node:crypto";
import { PrecisError } from "../../errors.js";
import { MEMORY_METHODS, splitSnapshot, type JsonValue, type SessionKey, type SessionStore } from "../../index.js";
import { ApiError } from "../api-error.js";
import { joinBytes } from "../join-bytes.js";
import type { Session, SessionRecord, SessionState } from "./session.js";

const NO_BYTES = new Uint8Array(0);
const PAGE = 1000;
/** Runs that are read or written at once. */
const AT_ONCE = 8;
const DIGEST_CHARACTERS = 32;

function keyOf({ namespace, id }: SessionKey, name?: string): SessionKey {
  return { namespace, id: name === undefined ? id : `${id}.${name}` };
}

/** What states have in the store under the session's id. */
export function namesOf(states: readonly SessionState[]): Set<string> {
  return new Set(states.flatMap(({ snapshot, runs = [] }) => [snapshot, ...runs]));
}

/** Whether what such a session has seen stays as it is; of others, runs seldom last until the next state. */
function onlyGrows({ setup: { method, options = {} } }: Session): boolean {
  const found = MEMORY_METHODS.find(({ name }) => name === method);
  return found?.create(options as Record<string, never>).appendOnly === true;
}

function isRecord(value: Readonly<Record<string, JsonValue>>): boolean {
  return value["format"] === 1 && typeof value["model"] === "string" && Array.isArray(value["states"]);
}

/** Reads and writes sessions. A snapshot is written before the record that names it, so that no crash loses a state. */
export class SessionFiles {
  readonly #store: SessionStore;

  constructor(store: SessionStore) {
    this.#store = store;
  }

  /** Ids of all sessions of a namespace, each with the names of the snapshots that lie beside it. */
  async ids(namespace: string): Promise<Map<string, string[]>> {
    const found = new Map<string, string[]>();
    for await (const id of this.#list(namespace, "")) {
      // Session ids have no dot, snapshots have one; they come after their session.
      const dot = id.indexOf(".");
      if (dot === -1) found.set(id, []);
      else found.get(id.slice(0, dot))?.push(id.slice(dot + 1));
    }
    return found;
  }

  /** The record of a session with its version, or undefined. @throws STORE_CORRUPT */
  async record(key: SessionKey): Promise<{ record: SessionRecord; version: string } | undefined> {
    const found = await this.#store.get(key);
    if (found === undefined) return undefined;
    if (isRecord(found.metadata)) {
      return { record: found.metadata as unknown as SessionRecord, version: found.version };
    }
    throw new PrecisError("STORE_CORRUPT", `What is stored under "${key.id}" is no session of this server.`);
  }

  /** The snapshot of a state. @throws ApiError 409 if it was discarded meanwhile; STORE_CORRUPT where it is missing */
  async snapshot(session: Session, state: SessionState): Promise<Uint8Array> {
    const names = [state.snapshot, ...(state.runs ?? [])];
    const pieces: Uint8Array[] = [];
    await eachOf(names, AT_ONCE, async (name, index) => {
      pieces[index] = await this.#piece(session, state, name);
    });
    return pieces.length === 1 ? (pieces[0] as Uint8Array) : joinBytes(pieces);
  }

  /**
   * Writes the snapshot of a new state, if there is one, and then the record.
   * @throws STORE_CONFLICT where another server changed it
   */
  async save(session: Session, added?: { state: SessionState; bytes: Uint8Array }): Promise<void> {
    if (added !== undefined) await this.#saveSnapshot(session, added);
    const metadata = JSON.parse(JSON.stringify(session.toRecord())) as Record<string, JsonValue>;
    session.version = await this.#store.put(keyOf(session), { bytes: NO_BYTES, metadata }, session.version);
  }

  /** Deletes what only states have that a session has no more. */
  async giveUp(session: Session, states: readonly SessionState[]): Promise<void> {
    const kept = namesOf(session.states);
    await this.discard(
      session,
      [...namesOf(states)].filter((name) => !kept.has(name)),
    );
  }

  /** Deletes snapshots and runs that no record names any more. */
  async discard(session: SessionKey, names: readonly string[]): Promise<void> {
    await eachOf(names, AT_ONCE, async (name) => void (await this.#store.delete(keyOf(session, name))));
  }

  /** Deletes a session: its record first, so that it is gone at once, and whatever lies beside it. */
  async delete(session: SessionKey): Promise<void> {
    const { namespace, id } = session;
    await this.#store.delete({ namespace, id });
    const names: string[] = [];
    for await (const beside of this.#list(namespace, `${id}.`)) names.push(beside.slice(id.length + 1));
    await this.discard(session, names);
  }

  async #piece(session: Session, state: SessionState, name: string): Promise<Uint8Array> {
    const found = await this.#store.get(keyOf(session, name));
    if (found !== undefined) return found.bytes;
    if (session.deleted || !session.states.includes(state)) {
      throw new ApiError(409, "state_gone", "The state that this was to go on from was given up just now.", {
        nextStep: "Send the request again.",
      });
    }
    throw new PrecisError("STORE_CORRUPT", `The snapshot of session "${session.id}" is missing from the store.`);
  }

  /** Writes what of a snapshot the session's other states do not have, and notes in its state what it consists of. */
  async #saveSnapshot(session: Session, { state, bytes }: { state: SessionState; bytes: Uint8Array }): Promise<void> {
    const { head, runs } = onlyGrows(session) ? splitSnapshot(bytes) : { head: bytes, runs: [] };
    const known = new Map([...namesOf(session.states)].map((name) => [name.slice(name.indexOf("-") + 1), name]));
    const names: string[] = [];
    let written = head.byteLength;
    await eachOf(runs, AT_ONCE, async (run, index) => {
      const digest = await digestOf(run);
      const shared = known.get(digest);
      // The number says since when it is there, so that none of a state that is being saved is taken for a left-over.
      names[index] = shared ?? `${state.serial}-${digest}`;
      if (shared !== undefined) return;
      written += run.byteLength;
      await this.#putOnce(keyOf(session, names[index]), run);
    });
    await this.#store.put(keyOf(session, state.snapshot), { bytes: head, metadata: {} }, undefined);
    if (names.length > 0) Object.assign(state, { runs: names, written });
  }

  /** Writes what lies under the digest of its own content, unless it is there. */
  async #putOnce(key: SessionKey, bytes: Uint8Array): Promise<void> {
    try {
      await this.#store.put(key, { bytes, metadata: {} }, undefined);
    } catch (error) {
      if (!(error instanceof PrecisError) || error.code !== "STORE_CONFLICT") throw error;
    }
  }

  async *#list(namespace: string, prefix: string): AsyncGenerator<string> {
    let after: string | undefined;
    do {
      const page = await this.#store.list({
        namespace,
        prefix,
        limit: PAGE,
        ...(after === undefined ? {} : { after }),
      });
      yield* page.ids;
      after = page.next;
    } while (after !== undefined);
  }
}

/** The beginning of a SHA-256 in hexadecimal, made on another thread, as runs are megabytes. */
async function digestOf(bytes: Uint8Array): Promise<string> {
  const digest = await webcrypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>);
  return Buffer.from(digest).toString("hex").slice(0, DIGEST_CHARACTERS);
}

/** Some at a time; what was begun has ended when it returns or throws. */
async function eachOf<Item>(
  items: readonly Item[],
  atOnce: number,
  work: (item: Item, index: number) => Promise<void>,
): Promise<void> {
  for (let at = 0; at < items.length; at += atOnce) {
    const ends = await Promise.allSettled(items.slice(at, at + atOnce).map((item, i) => work(item, at + i)));
    const failed = ends.find((end) => end.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }
}
