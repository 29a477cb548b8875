/** @file Entry point of the engine's worker thread: takes operations, answers with results, events and errors. */
import { parentPort } from "node:worker_threads";
import { PrecisError } from "../errors.js";
import { Engine } from "./engine.js";
import type { Interruption } from "./generation.js";
import type { FromWorker, ToWorker } from "./protocol.js";

const port = parentPort;
if (port === null) throw new PrecisError("ENGINE_FAILED", "worker.js runs only as a worker thread.");

const engine = new Engine();
const pending = new Map<number, { interruption: Interruption; controller: AbortController }>();

function answer(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(message, transfer);
}

/** Buffers of a result that the worker no longer needs and may give away instead of copying. */
function transferable(result: unknown): ArrayBuffer[] {
  return result instanceof Uint8Array && result.byteOffset === 0 && result.buffer instanceof ArrayBuffer
    ? [result.buffer]
    : [];
}

async function perform(message: Extract<ToWorker, { operation: unknown }>): Promise<void> {
  const { id } = message;
  const interruption: Interruption = { requested: undefined };
  const controller = new AbortController();
  pending.set(id, { interruption, controller });
  try {
    const context = {
      interruption,
      signal: controller.signal,
      emit: (event: Extract<FromWorker, { event: unknown }>["event"]) => answer({ id, event }),
    };
    const result = await engine.perform(message.operation, message.argument as never, context);
    answer({ id, result }, transferable(result));
  } catch (error) {
    answer({ id, error: PrecisError.from(error, "ENGINE_FAILED", "An operation failed").toJSON() });
  } finally {
    pending.delete(id);
  }
}

port.on("message", (message: ToWorker) => {
  if ("operation" in message) {
    void perform(message);
    return;
  }
  const work = pending.get(message.cancel);
  if (work === undefined) return;
  work.interruption.requested = message.how;
  if (message.how === "abort") work.controller.abort();
});
