/** @file Serves the turns of days with servers that page sessions in and out, and counts what that takes. */
import { DAY, type Turns } from "./arrivals.js";
import { sizeAt, timeFor, type Costs, type MethodCosts, type Precision } from "./costs.js";
import { LruCache } from "./lru.js";

/** How it is served. */
export interface Serving {
  /** Bytes of keys and values that a server holds, as `--memory` says. */
  memoryBytes: number;
  /** Earlier states that the store keeps, as `--checkpoints` says. */
  checkpoints: number;
  precision: Extract<Precision, "fp32" | "fp16">;
  /** Tokens of a turn's question and of its answer. */
  question: number;
  answer: number;
  /** Share of its time that a server may be busy in the busiest minutes. */
  utilisation: number;
  /** Whether a session that is not in memory is read again from its text rather than from the store. */
  rereads: boolean;
}

/** What the last day took. */
export interface Outcome {
  turns: number;
  /** Servers like the measured one. */
  servers: number;
  /** Share of turns whose session was in memory. */
  hitRate: number;
  /** Sessions in memory at the end. */
  resident: number;
  /** Bytes of all sessions in the store at the end. */
  storeBytes: number;
  /** In the busiest five minutes. */
  busiest: { turnsPerSecond: number; readsPerSecond: number; readBytes: number; writeBytes: number };
  /** Share of all work that goes into sessions: restoring, reading again, saving. */
  pagingShare: number;
  /** Mean milliseconds that a turn waits for its session when that is not in memory. */
  missMs: number;
}

const BIN = 300;

interface Served {
  outcome: Outcome;
  /** Servers that the busiest minutes take. */
  needed: number;
}

/** What one turn of a session costs, once per number of turns so far. */
interface TurnCosts {
  bytes: number;
  snapshot: number;
  workMs: number;
  missMs: number;
  saveMs: number;
}

/**
 * Serves the turns. Every request of a session goes to the same server, whose memories together are one; each turn is saved
 * when it ends, so that letting go of a session costs nothing. Days before the last one only fill the memories.
 */
export function simulate(turns: Turns, costs: Costs, method: MethodCosts, serving: Serving): Outcome {
  const table = new CostTable(costs, method, serving);
  const run = (servers: number): Served => serve(turns, table, { costs, serving, servers });
  // As many servers as it takes with the memory of one are surely enough. They hold more sessions, so that fewer may do.
  let served = run(run(1).needed);
  while (served.needed < served.outcome.servers) {
    const fewer = run(served.needed);
    if (fewer.needed > fewer.outcome.servers) break;
    served = fewer;
  }
  return served.outcome;
}

/** Costs by the number of turns that a session has had, computed when they are first asked for. */
class CostTable {
  readonly #costs: TurnCosts[] = [];
  readonly #rereadRate: number;
  readonly #method: MethodCosts;
  readonly #serving: Serving;

  constructor({ rereadRate }: Costs, method: MethodCosts, serving: Serving) {
    this.#rereadRate = rereadRate;
    this.#method = method;
    this.#serving = serving;
  }

  /** Costs of the turn after so many. */
  at(turns: number): TurnCosts {
    return (this.#costs[turns] ??= this.#compute(turns));
  }

  #compute(turns: number): TurnCosts {
    const method = this.#method;
    const { question, answer, precision, rereads } = this.#serving;
    const before = turns * (question + answer);
    const after = before + question + answer;
    // Times were measured in fp16; they go with the bytes.
    const scale = precision === "fp32" ? 2 : 1;
    const bytesAt = (tokens: number): number => sizeAt(method, tokens, ({ bytes }) => bytes);
    const restoreMs = rereads
      ? (1000 * before) / this.#rereadRate
      : scale * timeFor(method, bytesAt(before), "restoreMs");
    return {
      bytes: bytesAt(after),
      snapshot: sizeAt(method, after, ({ snapshots }) => snapshots[precision]),
      workMs: (1000 * question) / method.promptRate + (1000 * answer) / method.answerRate + method.commitMs,
      missMs: turns === 0 ? 0 : restoreMs,
      saveMs: rereads ? 0 : scale * timeFor(method, bytesAt(after), "saveMs"),
    };
  }
}

function serve(
  { times, sessions, ages }: Turns,
  table: CostTable,
  { costs, serving, servers }: { costs: Costs; serving: Serving; servers: number },
): Served {
  const seen = ages.slice();
  const cache = new LruCache(ages.length, servers * serving.memoryBytes);
  const end = Math.ceil((times.at(-1) ?? 0) / DAY) * DAY;
  const firstBin = Math.max(0, end / BIN - DAY / BIN);
  const bins = Array.from({ length: DAY / BIN }, () => ({ turns: 0, reads: 0, read: 0, written: 0, ms: 0 }));
  let [count, misses, missMs, pagingMs, workMs] = [0, 0, 0, 0, 0];
  for (let index = 0; index < times.length; index++) {
    const session = sessions[index] as number;
    const age = (seen[session] as number)++;
    const turn = table.at(age);
    const isHit = cache.use(session, turn.bytes);
    const bin = bins[Math.floor((times[index] as number) / BIN) - firstBin];
    if (bin === undefined) continue;
    const waited = isHit ? 0 : turn.missMs;
    count++;
    bin.turns++;
    bin.ms += turn.workMs + waited + turn.saveMs;
    workMs += turn.workMs;
    pagingMs += waited + turn.saveMs;
    if (!serving.rereads) bin.written += turn.snapshot + costs.recordBytes + serving.checkpoints * costs.stateBytes;
    if (isHit || age === 0) continue;
    misses++;
    missMs += waited;
    if (serving.rereads) continue;
    bin.reads++;
    bin.read += table.at(age - 1).snapshot;
  }
  const busiest = bins.reduce((most, bin) => (bin.ms > most.ms ? bin : most));
  const kept = 1 + serving.checkpoints;
  let storeBytes = 0;
  if (!serving.rereads) {
    for (const turns of seen) {
      if (turns === 0) continue;
      const states = Math.min(kept, turns);
      storeBytes += states * table.at(turns - 1).snapshot + costs.recordBytes + (states - 1) * costs.stateBytes;
    }
  }
  const outcome: Outcome = {
    turns: count,
    servers,
    hitRate: count === 0 ? 0 : 1 - misses / count,
    resident: cache.count,
    storeBytes,
    busiest: {
      turnsPerSecond: busiest.turns / BIN,
      readsPerSecond: busiest.reads / BIN,
      readBytes: busiest.read / BIN,
      writeBytes: busiest.written / BIN,
    },
    pagingShare: pagingMs / (pagingMs + workMs),
    missMs: misses === 0 ? 0 : missMs / misses,
  };
  return { outcome, needed: Math.max(1, Math.ceil(busiest.ms / (1000 * BIN * serving.utilisation))) };
}
