/** @file The sessions of one namespace: by id, by what was said, and by the responses that ended in their states. */
import type { Session, SessionState } from "./session.js";

/** A state of a session. */
export interface SessionPoint {
  session: Session;
  state: SessionState;
}

/** Names the memory that a history would have gone into. */
export function chainKey(session: Pick<Session, "served" | "setup">, chain: string): string {
  const { method, adapter, span_adapter: span, options = {} } = session.setup;
  const sorted = Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([session.served.id, method, adapter, span, sorted, chain]);
}

/** Finds sessions. */
export class SessionIndex {
  readonly sessions: Map<string, Session> = new Map();
  readonly #byChain = new Map<string, SessionPoint>();
  readonly #byResponse = new Map<string, SessionPoint>();

  /** Adds a session with all its states. */
  add(session: Session): void {
    this.sessions.set(session.id, session);
    for (const state of session.states) this.addState({ session, state });
  }

  /** Adds a state of a session that is there. */
  addState(point: SessionPoint): void {
    const { session, state } = point;
    this.#byChain.set(chainKey(session, state.chain), point);
    if (state.response !== undefined) this.#byResponse.set(state.response.id, point);
  }

  /** Forgets a state. */
  removeState({ session, state }: SessionPoint): void {
    const key = chainKey(session, state.chain);
    if (this.#byChain.get(key)?.state === state) this.#byChain.delete(key);
    if (state.response !== undefined) this.#byResponse.delete(state.response.id);
  }

  /** Forgets a session. */
  remove(session: Session): void {
    if (this.sessions.get(session.id) === session) this.sessions.delete(session.id);
    for (const state of session.states) this.removeState({ session, state });
  }

  /** The state in which a memory has seen exactly what the key's chain says. */
  byChain(key: string): SessionPoint | undefined {
    return this.#byChain.get(key);
  }

  /** The state in which a response ended. */
  byResponse(id: string): SessionPoint | undefined {
    return this.#byResponse.get(id);
  }
}
