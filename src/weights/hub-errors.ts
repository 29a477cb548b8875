/** @file Says what went wrong between here and the hub, and what to do about it. */

import { HubApiError } from "@huggingface/hub";
import { PrecisError } from "../errors.js";

/** What was asked of which hub. */
export interface HubTarget {
  id: string;
  revision: string;
  /** Folder of the model in the cache. */
  repoDir: string;
  endpoint: string;
}

const WAYS_WITHOUT_HUB =
  "Pass the path of a local model directory, or fill the cache where there is a network and point HF_HUB_CACHE at it.";

/** A connection that ended before all of its content had come. */
export class ConnectionLost extends Error {}

/** Whether the hub could not be asked at all, or failed itself: asking again may help. */
export function isNetworkFault(error: unknown): boolean {
  if (error instanceof HubApiError) return error.statusCode >= 500 || error.statusCode === 429;
  // Refused and lost connections make fetch throw a TypeError with a cause; mistakes in code have none.
  return error instanceof ConnectionLost || (error instanceof TypeError && error.cause !== undefined);
}

/** The error for a model that is not in the cache while no requests are allowed. */
export function offlineFailure({ id, revision, repoDir }: HubTarget): PrecisError {
  return new PrecisError("HUB_UNREACHABLE", `Offline, and the cache holds no complete ${id}@${revision}.`, {
    value: repoDir,
    nextStep: `Unset HF_HUB_OFFLINE to download it. ${WAYS_WITHOUT_HUB}`,
  });
}

/** `error`, from asking the hub, as an error for people. */
export function hubFailure(error: unknown, target: HubTarget): PrecisError {
  if (error instanceof PrecisError) return error;
  if (error instanceof HubApiError) return refusal(error, target);
  if (error instanceof Error && "code" in error && "syscall" in error && "path" in error) {
    const nextStep = "Check the free disk space and the rights of the folder, or set HF_HUB_CACHE to another.";
    return PrecisError.from(error, "FILE_INVALID", `Cannot write to the cache ${target.repoDir}`, nextStep);
  }
  const reason =
    error instanceof Error ? ((error.cause as Error | undefined)?.message ?? error.message) : String(error);
  const message = `Cannot reach the hub at ${target.endpoint} for ${target.id}: ${reason}.`;
  return new PrecisError("HUB_UNREACHABLE", message, {
    value: target.endpoint,
    cause: error,
    nextStep: WAYS_WITHOUT_HUB,
  });
}

function refusal(error: HubApiError, { id, revision, endpoint }: HubTarget): PrecisError {
  const { statusCode } = error;
  const details = { value: statusCode, cause: error };
  if (statusCode === 401 || statusCode === 403) {
    const message = `The hub at ${endpoint} refused access to ${id} (${statusCode}): it is private or gated, or does not exist.`;
    const nextStep = "Set HF_TOKEN to a token that may read it, and accept its terms on its page; check the spelling.";
    return new PrecisError("HUB_UNREACHABLE", message, { ...details, nextStep });
  }
  if (statusCode === 404) {
    const message = `The repository ${id}, or its revision ${revision}, was not found on the hub at ${endpoint}.`;
    return new PrecisError("FILE_NOT_FOUND", message, {
      ...details,
      nextStep: "Check the spelling of owner/name@revision.",
    });
  }
  const message = `The hub at ${endpoint} answered ${statusCode} for ${id}.`;
  return new PrecisError("HUB_UNREACHABLE", message, { ...details, nextStep: `Try again later. ${WAYS_WITHOUT_HUB}` });
}
