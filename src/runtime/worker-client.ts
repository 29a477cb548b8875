/** @file The main thread's side of the worker: calls, events, cancellation, and a process that may exit when idle. */
import { Worker, type MessagePort } from "node:worker_threads";
import { AbortListeners } from "../abort-listeners.js";
import { PrecisError } from "../errors.js";
import { createGate, removeGate } from "./engine-gate.js";
import type { EngineOperations, FromWorker, Operation, ToWorker } from "./protocol.js";

/** An event of a call in progress. */
export type CallEvent = Extract<FromWorker, { event: unknown }>["event"];

/** What a call may come with. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
  onEvent?: (event: CallEvent) => void;
  /** Ports and buffers in the argument, which the worker takes over. */
  transfer?: readonly (MessagePort | ArrayBuffer)[];
}

interface PendingCall {
  resolve: (result: unknown) => void;
  reject: (error: unknown) => void;
  onEvent: ((event: CallEvent) => void) | undefined;
}

/** A call in progress. */
export interface Call<Result> {
  result: Promise<Result>;
  /** Ends a generation early, keeping what there is. */
  stop: () => void;
}

function aborted(signal: AbortSignal): PrecisError {
  return new PrecisError("ABORTED", "The work was cancelled.", { cause: signal.reason });
}

function disposed(): PrecisError {
  return new PrecisError("DISPOSED", "The model was disposed.", { nextStep: "Load it again." });
}

/** One worker thread with one engine. */
export class WorkerClient {
  readonly #worker: Worker;
  readonly #gate = createGate();
  readonly #calls = new Map<number, PendingCall>();
  readonly #listeners = new AbortListeners();
  #nextId = 1;
  #ended: PrecisError | undefined;

  constructor() {
    // What `node -e` is told about its text does not hold for the worker's file.
    const execArgv = process.execArgv.filter((argument) => !argument.startsWith("--input-type"));
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { execArgv, workerData: { gate: this.#gate } });
    this.#worker.unref();
    this.#worker.on("message", (message: FromWorker) => this.#receive(message));
    this.#worker.on("error", (error) =>
      this.#end(PrecisError.from(error, "ENGINE_FAILED", "The engine's thread failed")),
    );
    this.#worker.on("exit", () => {
      removeGate(this.#gate);
      this.#end(disposed());
    });
  }

  /** Starts an operation. */
  start<Op extends Operation>(
    operation: Op,
    argument: EngineOperations[Op][0],
    options: CallOptions = {},
  ): Call<EngineOperations[Op][1]> {
    const { signal, onEvent, transfer = [] } = options;
    if (signal?.aborted === true) return { result: Promise.reject(aborted(signal)), stop: () => undefined };
    if (this.#ended !== undefined) return { result: Promise.reject(this.#ended), stop: () => undefined };
    const id = this.#nextId++;
    let ignoreSignal = (): void => undefined;
    const result = new Promise<unknown>((resolve, reject) => {
      this.#send({ id, operation, argument } as ToWorker, transfer);
      this.#calls.set(id, { resolve, reject, onEvent });
      // Only while something is in progress may the worker keep the process alive.
      if (this.#calls.size === 1) this.#worker.ref();
      if (signal !== undefined) {
        ignoreSignal = this.#listeners.add(signal, () => this.#send({ cancel: id, how: "abort" }));
      }
    }).finally(() => ignoreSignal());
    return { result: result as Promise<EngineOperations[Op][1]>, stop: () => this.#send({ cancel: id, how: "stop" }) };
  }

  /** Performs an operation. */
  call<Op extends Operation>(
    operation: Op,
    argument: EngineOperations[Op][0],
    options: CallOptions = {},
  ): Promise<EngineOperations[Op][1]> {
    return this.start(operation, argument, options).result;
  }

  /** Rejects what is in progress, lets the engine come to rest, and ends the thread. */
  async close(): Promise<void> {
    if (this.#ended === undefined) {
      const unfinished = [...this.#calls.values()];
      const { result } = this.start("dispose", undefined);
      this.#ended = disposed();
      for (const call of unfinished) call.reject(this.#ended);
      await result.catch(() => undefined);
    }
    await this.terminate();
  }

  /** Ends the thread. Only for an engine at rest: native code that is cut off takes the whole process down. */
  async terminate(): Promise<void> {
    await this.#worker.terminate();
  }

  #send(message: ToWorker, transfer: CallOptions["transfer"] = []): void {
    try {
      this.#worker.postMessage(message, [...transfer]);
    } catch (error) {
      throw PrecisError.from(error, "INPUT_INVALID", "An argument cannot be sent to the engine", "Pass plain data.");
    }
  }

  #receive(message: FromWorker): void {
    const call = this.#calls.get(message.id);
    if (call === undefined) return;
    if ("event" in message) {
      call.onEvent?.(message.event);
      return;
    }
    this.#calls.delete(message.id);
    if (this.#calls.size === 0) this.#worker.unref();
    if ("error" in message) call.reject(PrecisError.fromJSON(message.error));
    else call.resolve(message.result);
  }

  #end(error: PrecisError): void {
    this.#ended ??= error;
    for (const call of this.#calls.values()) call.reject(error);
    this.#calls.clear();
  }
}
