/** @file What a server counts, for Prometheus. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { TurnOutcome } from "./turns.js";

/** Sources of values that are read when somebody asks. */
export interface MetricSources {
  running: () => number;
  queued: () => number;
  heldBytes: () => number;
  residents: () => number;
  bodyBytes: () => number;
  counts: () => { restored: number; saved: number; saveFailures: number };
}

const SECONDS = [0.005, 0.02, 0.1, 0.5, 2, 10, 60];

/** Counters of one server, in a registry of its own. */
export class ServerMetrics {
  readonly registry: Registry = new Registry();
  readonly #requests: Counter<"route" | "method" | "status">;
  readonly #seconds: Histogram<"route">;
  readonly #tokens: Counter<"kind">;
  readonly #firstToken: Histogram;
  readonly #rejected: Counter<"reason">;
  readonly #aborted: Counter;

  constructor() {
    const registers = [this.registry];
    this.#requests = new Counter({
      name: "precis_http_requests_total",
      help: "Requests answered.",
      labelNames: ["route", "method", "status"],
      registers,
    });
    this.#seconds = new Histogram({
      name: "precis_http_request_seconds",
      help: "Time until an answer began.",
      labelNames: ["route"],
      buckets: SECONDS,
      registers,
    });
    this.#tokens = new Counter({
      name: "precis_tokens_total",
      help: "Tokens read (prompt), not read again thanks to a memory (cached), and generated.",
      labelNames: ["kind"],
      registers,
    });
    this.#firstToken = new Histogram({
      name: "precis_prompt_seconds",
      help: "Time to read history and input of a turn.",
      buckets: SECONDS,
      registers,
    });
    this.#rejected = new Counter({
      name: "precis_rejected_total",
      help: "Requests turned away: queue full, memory full, bodies, closing, rate limit.",
      labelNames: ["reason"],
      registers,
    });
    this.#aborted = new Counter({
      name: "precis_aborted_total",
      help: "Requests whose client went away.",
      registers,
    });
  }

  /** Adds gauges of what can be read at any time. */
  observe(sources: MetricSources): void {
    const gauge = (name: string, help: string, read: () => number): void => {
      const metric: Gauge = new Gauge({ name, help, registers: [this.registry], collect: () => metric.set(read()) });
    };
    gauge("precis_jobs_running", "Requests that use the engine.", sources.running);
    gauge("precis_jobs_queued", "Requests that wait for the engine.", sources.queued);
    gauge("precis_memory_bytes", "Keys and values held for sessions in the engine.", sources.heldBytes);
    gauge("precis_sessions_resident", "Sessions in the engine.", sources.residents);
    gauge("precis_body_bytes", "Bodies of requests that are being read or answered.", sources.bodyBytes);
    gauge("precis_sessions_restored", "Sessions brought back from the store so far.", () => sources.counts().restored);
    gauge("precis_sessions_saved", "States written to the store so far.", () => sources.counts().saved);
    gauge("precis_save_failures", "States that the store refused so far.", () => sources.counts().saveFailures);
  }

  /** Counts an answered request. */
  answered(request: { route: string; method: string; status: number; seconds: number }): void {
    const { route, method, status, seconds } = request;
    this.#requests.inc({ route, method, status: String(status) });
    this.#seconds.observe({ route }, seconds);
    if (status === 499) this.#aborted.inc();
  }

  /** Counts the tokens of a turn. @param cached tokens of the request that were in memory already */
  turn({ choices, history }: TurnOutcome, cached: number): void {
    const [first] = choices;
    if (first === undefined) return;
    this.#tokens.inc({ kind: "prompt" }, history.tokens + first.timings.promptTokens);
    this.#tokens.inc({ kind: "cached" }, cached);
    const generated = choices.reduce((sum, { timings }) => sum + timings.generatedTokens, 0);
    this.#tokens.inc({ kind: "generated" }, generated);
    this.#firstToken.observe((history.ms + first.timings.promptMs) / 1000);
  }

  /** Counts a request that was turned away. */
  rejected(reason: string): void {
    this.#rejected.inc({ reason });
  }

  /** Counts a client that went away while its answer streamed. */
  aborted(): void {
    this.#aborted.inc();
  }
}
