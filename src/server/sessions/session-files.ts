/** @file Sessions in a store: a record under the session's id, and a snapshot under `id.NAME` for each state. */
import { PrecisError } from "../../errors.js";
import type { JsonValue, SessionKey, SessionStore } from "../../index.js";
import { ApiError } from "../api-error.js";
import type { Session, SessionRecord, SessionState } from "./session.js";

const NO_BYTES = new Uint8Array(0);
const PAGE = 1000;

function keyOf({ namespace, id }: Session, state?: SessionState): SessionKey {
  return { namespace, id: state === undefined ? id : `${id}.${state.snapshot}` };
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
    const found = await this.#store.get(keyOf(session, state));
    if (found !== undefined) return found.bytes;
    if (session.deleted || !session.states.includes(state)) {
      throw new ApiError(409, "state_gone", "The state that this was to go on from was given up just now.", {
        nextStep: "Send the request again.",
      });
    }
    throw new PrecisError("STORE_CORRUPT", `The snapshot of session "${session.id}" is missing from the store.`);
  }

  /**
   * Writes the snapshot of a new state, if there is one, and then the record.
   * @throws STORE_CONFLICT where another server changed it
   */
  async save(session: Session, added?: { state: SessionState; bytes: Uint8Array }): Promise<void> {
    if (added !== undefined) {
      await this.#store.put(keyOf(session, added.state), { bytes: added.bytes, metadata: {} }, undefined);
    }
    const metadata = JSON.parse(JSON.stringify(session.toRecord())) as Record<string, JsonValue>;
    session.version = await this.#store.put(keyOf(session), { bytes: NO_BYTES, metadata }, session.version);
  }

  /** Deletes snapshots that no record names any more. */
  async discard(session: SessionKey, names: readonly string[]): Promise<void> {
    for (const name of names) {
      await this.#store.delete({ namespace: session.namespace, id: `${session.id}.${name}` });
    }
  }

  /** Deletes a session: its record first, so that it is gone at once, and whatever lies beside it. */
  async delete(session: SessionKey): Promise<void> {
    const { namespace, id } = session;
    await this.#store.delete({ namespace, id });
    const names: string[] = [];
    for await (const beside of this.#list(namespace, `${id}.`)) names.push(beside.slice(id.length + 1));
    await this.discard(session, names);
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
