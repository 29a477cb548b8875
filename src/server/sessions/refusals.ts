/** @file Why a session cannot do what it was asked to. */
import { ApiError } from "../api-error.js";
import type { Session, SessionState } from "./session.js";

/** @throws ApiError 404 for a session that was deleted while somebody waited for it */
export function refuseDeleted({ id, deleted }: Session): void {
  if (deleted) throw new ApiError(404, "session_not_found", `Session "${id}" was deleted.`, { param: "session" });
}

/** The 409 of a step that nobody kept. */
export function stepMissing(session: Session, step: number): ApiError {
  const kept = session.states.map(({ stats }) => stats.steps).join(", ");
  return new ApiError(409, "step_not_kept", `Session "${session.id}" cannot go back to step ${step}.`, {
    param: "step",
    nextStep: `Steps that can be gone back to: 0${kept === "" ? "" : `, ${kept}`}.`,
  });
}

/** @throws ApiError 409 for a session that went on from `from` while somebody waited for it */
export function refuseMoved(session: Session, from: SessionState | undefined): void {
  if (from === undefined || session.head?.snapshot === from.snapshot) return;
  throw new ApiError(409, "session_moved", "Another request went on from where this one wanted to.", {
    nextStep: "Send the request again.",
    retryAfter: 1,
  });
}
