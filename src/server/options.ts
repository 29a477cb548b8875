/** @file What a server can be told, and what holds unless it is told otherwise. */
import type { SnapshotPrecision } from "../index.js";
import type { SessionStore } from "../stores/store.js";
import type { Page } from "./page.js";

/** An API key and whose sessions it opens. */
export interface ApiKey {
  key: string;
  /** 1 to 64 letters, digits, `-` or `_`; keys that share it share sessions. */
  namespace: string;
}

/** How much a server takes on. */
export interface ServerLimits {
  /** Largest JSON body in bytes. */
  bodyBytes: number;
  /** Largest snapshot that is imported, in bytes. */
  snapshotBytes: number;
  /** Bytes of bodies that are held at once, over all requests until their answers begin; more get 503. */
  bodiesBytes: number;
  /** Bytes of keys and values that the engine may hold, those of running requests included. */
  memoryBytes: number;
  /** Requests that use the engine at once. */
  concurrency: number;
  /** Requests that may wait for that; more get 429. */
  queue: number;
  /** Requests that may wait for one session; more get 429. */
  queuePerSession: number;
  /** How long a request waits for a session that another server works on; then it gets 429. */
  sessionWaitMs: number;
  /** For how long a session stays reserved for a server that died while it worked on it. */
  leaseMs: number;
  /** Requests per minute and key; 0 for no limit. */
  requestsPerMinute: number;
  /** Tokens of an answer if the request does not say. */
  defaultTokens: number;
  /** Most tokens of an answer. */
  maxTokens: number;
  /** Sessions of one namespace that clients created. */
  sessions: number;
  /** Sessions of one namespace that arose from conversations and responses; the longest unused go first. */
  automaticSessions: number;
  /** Earlier states kept per session for rewinding, regenerating and branching. */
  checkpoints: number;
  /** Bytes that those may take together. */
  checkpointBytes: number;
}

/** The limits of a server that was told nothing: a small machine's. */
export const DEFAULT_LIMITS: ServerLimits = {
  bodyBytes: 4 * 2 ** 20,
  snapshotBytes: 256 * 2 ** 20,
  bodiesBytes: 512e6,
  memoryBytes: 2 ** 30,
  concurrency: 8,
  queue: 64,
  queuePerSession: 8,
  sessionWaitMs: 30_000,
  leaseMs: 5000,
  requestsPerMinute: 0,
  defaultTokens: 256,
  maxTokens: 4096,
  sessions: 1000,
  automaticSessions: 256,
  checkpoints: 16,
  checkpointBytes: 64 * 2 ** 20,
};

/** One line of the log. */
export interface LogRecord {
  level: "info" | "error";
  /** What happened: `request`, `failure`, `save-failed`, … */
  event: string;
  [field: string]: unknown;
}

/** How to make a server; see {@link DEFAULT_LIMITS} for what may be left out. */
export interface ServerOptions {
  /** Without keys everybody shares the namespace `default`. */
  keys?: readonly ApiKey[];
  /** Where sessions live; default: in this process. */
  store?: SessionStore;
  limits?: Partial<ServerLimits>;
  /** The page at `/`, see `readPage`; default: none. Anybody may read it; what it asks for needs a key. */
  page?: Page;
  /** Origins of web pages that may call the server beside those of this machine; `"*"` for all. */
  origins?: readonly string[];
  /** Hosts that a request may name in its `Host` header; default: any. Guards a local server against DNS rebinding. */
  hosts?: readonly string[];
  /** `"fp32"` (default) pages sessions out without any change; `"fp16"`, `"int8"` and `"int4"` take less space. */
  precision?: SnapshotPrecision;
  log?: (record: LogRecord) => void;
}
