/** @file Takes documents into a session of a store, each once, however often the work is cut off and begun again. */
import { PrecisError } from "../../errors.js";
import type { Lease, MemoryStats, SessionKey, SessionStore, SnapshotPrecision } from "../../index.js";
import { throwIfAborted } from "../../weights/files.js";
import type { MemorySetup, ServedModel } from "../models.js";
import type { ServerLimits } from "../options.js";
import type { IngestDocument } from "./documents.js";
import { SessionLeases } from "../sessions/session-leases.js";
import { lengthOf, piecesOf, sizeOf, type Piece } from "./pieces.js";
import { OpenedSession } from "./opened-session.js";

/** What to take in, and where. JSON, so that it can wait in a queue. */
export interface IngestTask {
  namespace: string;
  /** Made if there is none. */
  session: string;
  documents: readonly IngestDocument[];
  /** The memory of a session that has to be made. */
  setup?: MemorySetup | undefined;
  /** About how many tokens of a text make a time step. */
  stepTokens: number;
}

/** Who takes it in. */
export interface IngestEnvironment {
  served: ServedModel;
  store: SessionStore;
  limits: Pick<ServerLimits, "checkpoints" | "checkpointBytes">;
  precision: SnapshotPrecision;
  /** For people, who find it where a session is being worked on already. */
  holder: string;
  /** How long others wait for one that died. Default 60 s. */
  leaseMs?: number | undefined;
}

/** How far the work is, in characters. */
export interface IngestProgress {
  done: number;
  total: number;
  /** The document at work. */
  document: string;
  /** Time steps taken in by this run. */
  steps: number;
}

/** How it ended. */
export interface IngestResult {
  session: string;
  /** Documents taken in now; what is missing of `task.documents` was in the session already. */
  documents: number;
  steps: number;
  tokens: number;
  memory: MemoryStats;
}

/** What the work may come with. */
export interface IngestOptions {
  /** Ends the work; what was saved until then stays, and the next run goes on there. */
  signal?: AbortSignal | undefined;
  /** Called when something is safe in the store. */
  onProgress?: ((progress: IngestProgress) => void) | undefined;
}

/** Time steps between two states that are saved, and about how long they may take. */
const STEPS_PER_STATE = 32;
const STATE_MS = 2000;
const LEASE_MS = 60_000;
/** Times that the work begins again because somebody turned the session back meanwhile. */
const ATTEMPTS = 10;

/**
 * Takes documents into a session. How far it is goes into the store with the memory itself, in one write: a run after a
 * crash goes on where the last one was, and takes nothing in twice.
 * @throws LEASE_HELD where another run works on the session; STORE_CONFLICT where it is turned back all the time; what the model,
 * the method and the store throw
 */
export async function ingest(
  environment: IngestEnvironment,
  task: IngestTask,
  options: IngestOptions = {},
): Promise<IngestResult> {
  const { store, holder, leaseMs = LEASE_MS } = environment;
  // A lease beside the session's own, which servers want for their answers.
  const key: SessionKey = { namespace: task.namespace, id: `${task.session}.ingest` };
  const keeper = new LeaseKeeper(store, await store.acquireLease(key, holder, leaseMs), leaseMs);
  const total = { steps: 0, tokens: 0, documents: new Set<string>() };
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        return await takeIn({ environment, task, options, keeper, total });
      } catch (error) {
        throwIfAborted(options.signal, "Taking in");
        const isConflict = error instanceof PrecisError && error.code === "STORE_CONFLICT";
        if (!isConflict || attempt >= ATTEMPTS) throw error;
      }
    }
  } finally {
    await keeper.release();
  }
}

interface Run {
  environment: IngestEnvironment;
  task: IngestTask;
  options: IngestOptions;
  keeper: LeaseKeeper;
  total: { steps: number; tokens: number; documents: Set<string> };
}

async function takeIn({ environment, task, options, keeper, total }: Run): Promise<IngestResult> {
  await using opened = await OpenedSession.open(environment, task);
  const { served, store, leaseMs = LEASE_MS } = environment;
  const leases = new SessionLeases(store, { leaseMs, sessionWaitMs: leaseMs });
  const countTokens = async (text: string): Promise<number> => (await served.model.tokenize(text)).length;
  const size = task.documents.reduce((sum, document) => sum + sizeOf(document), 0);
  let done = 0;
  for (const document of task.documents) {
    const from = opened.taken(document.id);
    done += sizeOf({ ...document, content: document.content.slice(0, from) });
    const pieces = piecesOf(document, from, { stepTokens: task.stepTokens, countTokens });
    for (let at = from; at < lengthOf(document); at = opened.taken(document.id)) {
      await keeper.renew();
      const before = total.steps;
      // Servers that want to answer in the session meanwhile wait for no longer than this.
      await leases.run(opened.session, options.signal, async (signal) => {
        done += await takeSome(opened, { document, at, pieces, signal, total });
      });
      if (total.steps === before) break;
      total.documents.add(document.id);
      options.onProgress?.({ done, total: size, document: document.name, steps: total.steps });
    }
  }
  const { steps, tokens, documents } = total;
  return { session: task.session, documents: documents.size, steps, tokens, memory: opened.stats };
}

interface Part {
  document: IngestDocument;
  /** How far it should be. */
  at: number;
  pieces: AsyncGenerator<Piece>;
  signal: AbortSignal;
  total: Run["total"];
}

/** Takes in the next pieces of a document, and saves them as one state. @returns their characters */
async function takeSome(opened: OpenedSession, { document, at, pieces, signal, total }: Part): Promise<number> {
  await opened.refresh();
  if (opened.taken(document.id) !== at) {
    // Somebody turned the session back; the pieces at hand are not the next ones any more.
    throw new PrecisError("STORE_CONFLICT", "The session was turned back.", { nextStep: "Run it again." });
  }
  const { tokensSeen } = opened.stats;
  const startedAt = performance.now();
  let [steps, characters] = [0, 0];
  while (steps < STEPS_PER_STATE && performance.now() - startedAt < STATE_MS) {
    const { done, value } = await pieces.next();
    if (done === true) break;
    await opened.append(value.input, { document: document.id, end: value.end, signal });
    steps++;
    characters += value.size;
  }
  if (steps > 0) await opened.commit();
  total.steps += steps;
  total.tokens += opened.stats.tokensSeen - tokensSeen;
  return characters;
}

/** Keeps a lease for as long as the work lasts. */
class LeaseKeeper {
  readonly #store: SessionStore;
  readonly #ms: number;
  #lease: Lease;
  #renewed: number = Date.now();

  constructor(store: SessionStore, lease: Lease, ms: number) {
    this.#store = store;
    this.#lease = lease;
    this.#ms = ms;
  }

  /** Renews it when that is due. @throws LEASE_LOST where it has ended, so that another run may have begun */
  async renew(): Promise<void> {
    if (Date.now() - this.#renewed < this.#ms / 4) return;
    this.#lease = await this.#store.renewLease(this.#lease, this.#ms);
    this.#renewed = Date.now();
  }

  async release(): Promise<void> {
    // It ends by itself if the store cannot be told.
    await this.#store.releaseLease(this.#lease).catch(() => undefined);
  }
}
