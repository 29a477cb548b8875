/** @file Entry point of the engine's worker thread: takes operations, answers with results, events and errors. */
import { parentPort } from "node:worker_threads";
import { PrecisError } from "../errors.js";
import { Engine } from "./engine.js";
import type { Interruption } from "./operation-context.js";
import type { FromWorker, ToWorker } from "./protocol.js";

const port = parentPort;
if (port === null) throw new PrecisError("ENGINE_FAILED", "worker.js runs only as a worker thread.");

const engine = new Engine();

/** An operation in progress. */
interface Work {
  interruption: Interruption;
  controller: AbortController;
  settled: Promise<void>;
}

const pending = new Map<number, Work>();

function answer(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(message, transfer);
}

/** Buffers of a result that the worker no longer needs and may give away instead of copying. */
function transferable(result: unknown): ArrayBuffer[] {
  return result instanceof Uint8Array && result.byteOffset === 0 && result.buffer instanceof ArrayBuffer
    ? [result.buffer]
    : [];
}

function abort({ interruption, controller }: Work): void {
  interruption.requested = "abort";
  controller.abort();
}

/** Cancels everything and waits until nothing uses the engine. */
async function comeToRest(): Promise<void> {
  const work = [...pending.values()];
  for (const each of work) abort(each);
  await Promise.all(work.map(({ settled }) => settled));
}

async function perform(
  message: Extract<ToWorker, { operation: unknown }>,
  { interruption, controller }: Omit<Work, "settled">,
): Promise<void> {
  const { id } = message;
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
  }
}

async function start(message: Extract<ToWorker, { operation: unknown }>): Promise<void> {
  if (message.operation === "dispose") await comeToRest();
  const interruption: Interruption = { requested: undefined };
  const controller = new AbortController();
  const settled = perform(message, { interruption, controller });
  pending.set(message.id, { interruption, controller, settled });
  await settled;
  pending.delete(message.id);
}

port.on("message", (message: ToWorker) => {
  if ("operation" in message) {
    void start(message);
    return;
  }
  const work = pending.get(message.cancel);
  if (work === undefined) return;
  if (message.how === "abort") abort(work);
  else work.interruption.requested = message.how;
});
