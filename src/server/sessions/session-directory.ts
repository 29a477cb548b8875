/** @file What this server knows of the sessions in the store, which other servers change too. */
import { PrecisError } from "../../errors.js";
import { ApiError } from "../api-error.js";
import type { ModelPool } from "../models.js";
import type { LogRecord } from "../options.js";
import { namesOf, type SessionFiles } from "./session-files.js";
import { sessionOfResponse } from "./response-id.js";
import { SessionIndex, type SessionPoint } from "./session-index.js";
import { Session, type SessionRecord } from "./session.js";

/** What a directory works with. */
export interface DirectoryParts {
  files: SessionFiles;
  models: ModelPool;
  log: (record: LogRecord) => void;
  /** Frees the memory of a session that the engine should not hold any more. */
  release: (session: Session) => Promise<void>;
}

/** What a session may be called. */
const ID = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;
/** What is wrong with a session alone, not with the store. */
const DAMAGED: ReadonlySet<string> = new Set(["STORE_CORRUPT", "STORE_KEY_MISMATCH"]);
/** Records that are read at once. */
const AT_ONCE = 16;

/** Finds sessions, and reads them again where somebody else changed them. */
export class SessionDirectory {
  readonly #parts: DirectoryParts;
  readonly #namespaces = new Map<string, Promise<SessionIndex>>();

  constructor(parts: DirectoryParts) {
    this.#parts = parts;
  }

  /** The sessions of a namespace that this server knows; at first, all that the store has. */
  index(namespace: string): Promise<SessionIndex> {
    let index = this.#namespaces.get(namespace);
    if (index === undefined) {
      const fresh = new SessionIndex();
      index = this.#readAll(fresh, namespace).then(() => fresh);
      index.catch(() => this.#namespaces.delete(namespace));
      this.#namespaces.set(namespace, index);
    }
    return index;
  }

  /** The session of a name as it is in the store, or undefined. */
  async find(namespace: string, id: string): Promise<Session | undefined> {
    if (!ID.test(id)) return undefined;
    const index = await this.index(namespace);
    const known = index.sessions.get(id);
    if (known === undefined) await this.#read(index, namespace, id);
    else await this.peek(known);
    return index.sessions.get(id);
  }

  /** The state in which a response ended; one that this server does not know costs one read of its session. */
  async findResponse(namespace: string, id: string): Promise<SessionPoint | undefined> {
    const index = await this.index(namespace);
    const known = index.byResponse(id);
    if (known !== undefined) return known;
    await this.find(namespace, sessionOfResponse(id) ?? "");
    return index.byResponse(id);
  }

  /** Reads a session again unless this server is working on it. */
  async peek(session: Session): Promise<void> {
    const { version } = session;
    if (version === undefined || session.lock.held) return;
    const found = await this.#parts.files.record(session);
    // Whoever began to work on it meanwhile reads it for himself.
    if (!session.lock.held && session.version === version) await this.#take(session, found);
  }

  /** Reads a session again; to be called by whoever holds its lease. One that is gone or of another model is forgotten. */
  async refresh(session: Session): Promise<void> {
    await this.#take(session, await this.#parts.files.record(session));
  }

  /** Learns what other servers did: sessions that are new, gone or changed. */
  async sync(namespace: string): Promise<void> {
    const index = await this.index(namespace);
    const ids = await this.#parts.files.ids(namespace);
    const known = [...index.sessions.values()];
    await eachOf(ids.keys(), (id) => this.#read(index, namespace, id));
    await eachOf(known, (session) => this.peek(session));
  }

  /** Forgets a session, in the engine too. */
  async forget(session: Session): Promise<void> {
    (await this.index(session.namespace)).remove(session);
    session.deleted = true;
    await this.#parts.release(session);
  }

  async #readAll(index: SessionIndex, namespace: string): Promise<void> {
    const { files, log } = this.#parts;
    const ids = await files.ids(namespace);
    await eachOf(ids, async ([id, names]) => {
      await this.#read(index, namespace, id);
      const session = index.sessions.get(id);
      // Left by servers that died; later ones may belong to a state that is being saved just now.
      const left = names.filter((name) => isLeftOver(name, session));
      await files.discard({ namespace, id }, left).catch((error: unknown) => {
        log({ level: "info", event: "discard-failed", session: id, reason: String(error) });
      });
    });
  }

  /** Adds a session of the store to an index; one of a model that is not served stays where it is. */
  async #read(index: SessionIndex, namespace: string, id: string): Promise<void> {
    if (index.sessions.has(id)) return;
    const { files, models, log } = this.#parts;
    const found = await files.record({ namespace, id }).catch((error: unknown) => {
      if (!(error instanceof PrecisError) || !DAMAGED.has(error.code)) throw error;
      // One damaged session must not keep the others from being used.
      log({ level: "error", event: "session-unreadable", session: id, reason: error.message });
      return undefined;
    });
    if (found === undefined || index.sessions.has(id)) return;
    const { record, version } = found;
    const served = models.all.find((candidate) => candidate.id === record.model);
    if (served === undefined) {
      log({ level: "info", event: "session-skipped", session: id, model: record.model });
      return;
    }
    const session = new Session(namespace, id, served, record.kind, record.setup);
    session.adopt(record, version);
    index.add(session);
  }

  async #take(session: Session, found: { record: SessionRecord; version: string } | undefined): Promise<void> {
    if (found?.record.model !== session.served.id) return this.forget(session);
    if (found.version === session.version) return;
    const index = await this.index(session.namespace);
    index.remove(session);
    const before = session.head?.snapshot;
    session.adopt(found.record, found.version);
    index.add(session);
    if (session.head?.snapshot !== before || before === undefined) await this.#parts.release(session);
  }
}

function isLeftOver(name: string, session: Session | undefined): boolean {
  if (session === undefined || namesOf(session.states).has(name)) return false;
  return Number.parseInt(name, 10) < session.nextSerial;
}

/** Some at a time. */
async function eachOf<Item>(items: Iterable<Item>, work: (item: Item) => Promise<void>): Promise<void> {
  const all = [...items];
  for (let at = 0; at < all.length; at += AT_ONCE) await Promise.all(all.slice(at, at + AT_ONCE).map(work));
}

/** The 404 of a session. */
export function sessionMissing(id: string): ApiError {
  return new ApiError(404, "session_not_found", `There is no session "${id}".`, {
    param: "session",
    nextStep: 'Make one with POST /v1/sessions, such as {"id": "alice"}.',
  });
}
