/** @file Ids of responses. They name the session that a response ended in, so that any server finds it with one read. */
import { freshId } from "./session.js";

const ID = /^resp_[0-9a-f]{24}_(.+)$/;

/**
 * A fresh id of a response in a session: random digits, which make it a secret of those who were told, and the session's
 * id. It is looked up in the namespace of whoever asks, so of other namespaces it says nothing.
 */
export function freshResponseId(sessionId: string): string {
  return `${freshId("resp")}_${sessionId}`;
}

/** The session that an id of a response names; undefined for what is no such id, or one from before they named it. */
export function sessionOfResponse(id: string): string | undefined {
  return ID.exec(id)?.[1];
}
