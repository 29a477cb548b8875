/** @file Sessions in a store: a record under the session's id, and a snapshot under `id.serial` for each state. */
import { PrecisError } from "../../errors.js";
import { updateSession, type JsonValue, type SessionKey, type SessionStore } from "../../index.js";
import { ApiError } from "../api-error.js";
import type { Session, SessionRecord, SessionState } from "./session.js";

const NO_BYTES = new Uint8Array(0);
const PAGE = 1000;

function keyOf({ namespace, id }: Session, state?: SessionState): SessionKey {
  return { namespace, id: state === undefined ? id : `${id}.${state.serial}` };
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

  /** Ids of all sessions of a namespace. */
  async ids(namespace: string): Promise<string[]> {
    const found: string[] = [];
    let after: string | undefined;
    do {
      const page = await this.#store.list({ namespace, limit: PAGE, ...(after === undefined ? {} : { after }) });
      // Session ids have no dot, snapshots have one.
      found.push(...page.ids.filter((id) => !id.includes(".")));
      after = page.next;
    } while (after !== undefined);
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
    const unsaved = session.unsaved.get(state.serial);
    if (unsaved !== undefined) return unsaved;
    const found = await this.#store.get(keyOf(session, state));
    if (found !== undefined) return found.bytes;
    if (session.deleted || !session.states.includes(state)) {
      throw new ApiError(409, "state_gone", "The state that this was to go on from was given up just now.", {
        nextStep: "Send the request again.",
      });
    }
    throw new PrecisError("STORE_CORRUPT", `The snapshot of session "${session.id}" is missing from the store.`);
  }

  /** Writes all that is unsaved, then the record. @throws STORE_CONFLICT where another server changed it */
  async save(session: Session): Promise<void> {
    for (const [serial, bytes] of session.unsaved) {
      const state = session.states.find((candidate) => candidate.serial === serial);
      // A crash may have left a snapshot of this number that no record names.
      if (state !== undefined) await updateSession(this.#store, keyOf(session, state), () => ({ bytes, metadata: {} }));
      session.unsaved.delete(serial);
    }
    const metadata = JSON.parse(JSON.stringify(session.toRecord())) as Record<string, JsonValue>;
    session.version = await this.#store.put(keyOf(session), { bytes: NO_BYTES, metadata }, session.version);
    session.isSaved = true;
  }

  /** Deletes snapshots that no record names any more. */
  async discard(session: Session, states: readonly SessionState[]): Promise<void> {
    for (const state of states) {
      session.unsaved.delete(state.serial);
      await this.#store.delete(keyOf(session, state));
    }
  }

  /** Deletes a session: its record first, so that it is gone at once. */
  async delete(session: Session): Promise<void> {
    await this.#store.delete(keyOf(session));
    await this.discard(session, session.states);
  }
}
