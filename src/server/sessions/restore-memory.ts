/** @file A session's memory from its snapshot. */
import { PrecisError } from "../../errors.js";
import type { Memory } from "../../index.js";
import { ApiError } from "../api-error.js";
import { adapterFolders, type MemorySetup, type ServedModel } from "../models.js";

/**
 * The memory that a session's snapshot holds; whoever asks disposes it.
 * @param bytes given away to the engine: they are empty afterwards
 * @throws ApiError 409 for a snapshot of another model, or a damaged one
 */
export async function restoreMemory(served: ServedModel, setup: MemorySetup, bytes: Uint8Array): Promise<Memory> {
  try {
    return await served.model.restoreMemory(bytes, { ...adapterFolders(served, setup), consume: true });
  } catch (error) {
    if (!(error instanceof PrecisError) || !error.code.startsWith("SNAPSHOT_")) throw error;
    throw new ApiError(409, "session_unreadable", "This session was made with another model, or is damaged.", {
      nextStep: "Start the server with the model and precision it was made with, or begin a new session.",
      cause: error,
    });
  }
}
