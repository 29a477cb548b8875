/**
 * @file Lets a process end while an engine works. Node tears worker threads down wherever they are, and native code that
 * is cut off aborts the whole process; so at exit the main thread closes the gate and waits for the work inside.
 */
import { isMainThread, workerData } from "node:worker_threads";

/** Shared between both threads: work in progress, and whether no more may begin. */
export type EngineGate = Int32Array<SharedArrayBuffer>;

const INSIDE = 0;
const CLOSED = 1;
/** Longer than any run takes; a hung engine must not keep a process from ending. */
const PATIENCE_MS = 30_000;

const open = new Set<EngineGate>();

function closeAll(): void {
  for (const gate of open) Atomics.store(gate, CLOSED, 1);
  for (const gate of open) {
    for (let inside = Atomics.load(gate, INSIDE); inside > 0; inside = Atomics.load(gate, INSIDE)) {
      if (Atomics.wait(gate, INSIDE, inside, PATIENCE_MS) === "timed-out") break;
    }
  }
}

/** Makes the gate of a worker, to be passed to it as `workerData.gate`. */
export function createGate(): EngineGate {
  const gate = new Int32Array(new SharedArrayBuffer(8));
  if (open.size === 0) process.on("exit", closeAll);
  open.add(gate);
  return gate;
}

/** Forgets the gate of a worker that has ended. */
export function removeGate(gate: EngineGate): void {
  open.delete(gate);
  if (open.size === 0) process.off("exit", closeAll);
}

const gate = isMainThread ? undefined : (workerData as { gate?: EngineGate } | null)?.gate;

/** Does native work inside the gate of this thread, if it has one; once the gate is closed, work never begins. */
export async function throughGate<Result>(work: () => Promise<Result>): Promise<Result> {
  if (gate === undefined) return work();
  Atomics.add(gate, INSIDE, 1);
  try {
    if (Atomics.load(gate, CLOSED) === 0) return await work();
  } finally {
    Atomics.sub(gate, INSIDE, 1);
    Atomics.notify(gate, INSIDE);
  }
  return new Promise(() => undefined);
}
