/** @file One session of the server: a memory, in the engine or in the store, and the states that it went through. */
import { randomBytes } from "node:crypto";
import type { JsonValue, Memory, MemoryStats } from "../../index.js";
import type { Resident } from "../memory-budget.js";
import type { MemorySetup, ServedModel } from "../models.js";
import { Mutex } from "../mutex.js";
import { NOTHING } from "./chain.js";

/** Where a session came from: made by a client, by a conversation sent in full, or by a chain of responses. */
export type SessionKind = "explicit" | "chat" | "response";

/** A state that a session was in. */
export interface SessionState {
  serial: number;
  /** What its snapshot is called in the store, unlike that of any other state; of old records, the serial number. */
  snapshot: string;
  /** Hash of all that was said up to here. */
  chain: string;
  stats: MemoryStats;
  /** Names of the runs of rows that follow what lies under `snapshot`, in their order; states may share them. */
  runs?: readonly string[];
  /** Bytes of the snapshot. */
  size: number;
  /** Bytes of it that no other state had already, where states share runs. */
  written?: number;
  /** Seconds since 1970. */
  created: number;
  /** A stored response that ended here. */
  response?: { id: string; body: JsonValue } | undefined;
  /** How far documents were taken in by bulk work, by their digests; going back forgets what came later. */
  ingested?: Readonly<Record<string, number>> | undefined;
}

/** What the store keeps of a session beside the snapshots. */
export interface SessionRecord {
  format: 1;
  kind: SessionKind;
  model: string;
  setup: MemorySetup;
  created: number;
  used: number;
  parent?: string | undefined;
  metadata: Record<string, string>;
  nextSerial: number;
  states: SessionState[];
}

/** A fresh name of the snapshot of a state. */
export function snapshotName(serial: number): string {
  return `${serial}-${randomBytes(6).toString("hex")}`;
}

/** A fresh id: a prefix and 24 random hexadecimal digits. */
export function freshId(prefix: string): string {
  return `${prefix}_${randomBytes(12).toString("hex")}`;
}

/** The time in whole seconds, as OpenAI's objects give it. */
export function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

/** A version that no record has: the session must be read again before it is used. */
export const UNKNOWN_VERSION = "unknown";

/** A session. Everything that changes it happens under its lock. */
export class Session implements Resident {
  readonly namespace: string;
  readonly id: string;
  readonly served: ServedModel;
  readonly lock: Mutex = new Mutex();
  kind: SessionKind;
  /** Method and options in full once a memory was made. */
  setup: MemorySetup;
  created: number = nowSeconds();
  used: number = this.created;
  parent: string | undefined;
  metadata: Record<string, string> = {};
  states: SessionState[] = [];
  nextSerial = 1;
  /** The memory while it is in the engine. */
  memory: Memory | undefined;
  /** The store's version of the record; undefined before the first write, {@link UNKNOWN_VERSION} after a failed one. */
  version: string | undefined;
  /** Where a branch begins, until it has a state of its own. */
  origin: { session: Session; state: SessionState } | undefined;
  /** Whether a request that repeats its history is about to go on with it; others then branch. */
  claimed = false;
  /** Whether it was deleted while somebody was waiting for it. */
  deleted = false;
  /** When this server was last done with it, by `performance.now()`. */
  leftAt: number = -Infinity;

  constructor(namespace: string, id: string, served: ServedModel, kind: SessionKind, setup: MemorySetup) {
    this.namespace = namespace;
    this.id = id;
    this.served = served;
    this.kind = kind;
    this.setup = setup;
  }

  /** Becomes what the store has, in place of what it was. States that are the same stay the same objects. */
  adopt({ kind, setup, created, used, parent, metadata, nextSerial, states }: SessionRecord, version: string): void {
    const known = new Map(this.states.map((state) => [state.snapshot, state]));
    const adopted = states.map((state): SessionState => {
      const named = { ...state, snapshot: state.snapshot ?? `${state.serial}` };
      return Object.assign(known.get(named.snapshot) ?? named, { response: state.response });
    });
    Object.assign(this, { kind, setup, created, used, parent, metadata, nextSerial, states: adopted, version });
  }

  /** What the store keeps. */
  toRecord(): SessionRecord {
    const { kind, served, created, used, parent, metadata, nextSerial, states } = this;
    const { method = "", options = {} } = this.setup;
    const setup = { ...this.setup, method, options: { ...options } };
    return { format: 1, kind, model: served.id, setup, created, used, parent, metadata, nextSerial, states };
  }

  /** The present state; undefined for a session that has seen nothing. */
  get head(): SessionState | undefined {
    return this.states.at(-1) ?? this.origin?.state;
  }

  /** Hash of all that was said. */
  get chain(): string {
    return this.head?.chain ?? NOTHING;
  }

  /** What the memory holds, as of the present state. */
  get stats(): MemoryStats {
    const empty = { steps: 0, tokensSeen: 0, slots: 0, position: 0, bytes: 0, fullCacheBytes: 0, ratio: 0 };
    return this.head?.stats ?? { method: this.setup.method ?? "", ...empty };
  }

  get evictable(): boolean {
    return !this.lock.held;
  }

  evict(): void {
    const { memory } = this;
    this.memory = undefined;
    // Nobody waits for it, and a model that was disposed meanwhile has freed it already.
    void memory?.dispose().catch(() => undefined);
  }
}
