/** @file One soak: a server is filled with sessions, talked to for minutes while its memory is watched, and compared. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { watchOthers } from "../quiet.js";
import { growthOf, percentile, type Growth, type Sample } from "../statistics.js";
import {
  compareThroughput,
  fillSessions,
  findLost,
  rateOf,
  talk,
  type ClientSession,
  type LoadRecord,
  type ThroughputRound,
} from "./load.js";
import { processorMs, residentBytes, ServerProcess } from "./server-process.js";

/** What to measure. */
export interface SoakSettings {
  minutes: number;
  sessions: number;
  streams: number;
  maxTokens: number;
  /** Rounds of the comparison with one request at a time. */
  rounds: number;
  /** Options of `precis serve`, besides where sessions are stored. */
  serve: readonly string[];
  /** Body of `POST /v1/sessions`. */
  setup: object;
  /** What messages say. */
  texts: readonly string[];
  seed: number;
}

/** The middle and the slow end of a time, in milliseconds. */
export interface Spread {
  p50: number;
  p95: number;
  p99: number;
}

/** What a soak found. */
export interface SoakReport {
  sessions: number;
  streams: number;
  seconds: number;
  answers: number;
  /** Errors of any kind, the first few of them in words. */
  errors: number;
  firstErrors: string[];
  firstToken: Spread;
  betweenTokens: Spread;
  tokensPerSecond: number;
  /** Bytes of physical memory: the most seen, and the second half in bytes per minute. */
  peakBytes: number;
  growth: Growth;
  /** How full the engine was, and how often sessions came back from the store. */
  paging: { memoryBytes: number; resident: number; restored: number; saved: number };
  comparison: ThroughputRound[];
  /** Share of all cores that other programs used; undefined where it cannot be told. */
  others: number | undefined;
  memorySamples: Sample[];
}

/** Between two looks at the server's memory. */
const SAMPLE_MS = 500;

function spreadOf(values: readonly number[]): Spread {
  return { p50: percentile(values, 0.5), p95: percentile(values, 0.95), p99: percentile(values, 0.99) };
}

/** Samples the server's memory while `work` goes on; times in minutes. */
async function watchMemory(pid: number, work: () => Promise<void>): Promise<Sample[]> {
  const samples: Sample[] = [];
  const start = performance.now();
  const done = new AbortController();
  const sampling = (async (): Promise<void> => {
    while (!done.signal.aborted) {
      samples.push({ at: (performance.now() - start) / 60_000, value: residentBytes(pid) });
      await sleep(SAMPLE_MS, undefined, { signal: done.signal }).catch(() => undefined);
    }
  })();
  try {
    await work();
  } finally {
    done.abort();
    await sampling;
  }
  return samples;
}

async function compare(
  server: ServerProcess,
  sessions: readonly ClientSession[],
  { rounds, streams, maxTokens, texts }: SoakSettings,
  note: (text: string) => void,
): Promise<ThroughputRound[]> {
  const compared: ThroughputRound[] = [];
  for (let round = 0; round < rounds; round++) {
    const chosen = sessions.slice(0, streams);
    const options = { maxTokens, texts, togetherFirst: round % 2 === 1 };
    const found = await compareThroughput(server.url, chosen, options);
    compared.push(found);
    note(`comparison ${round + 1}: ${found.alone.toFixed(0)} tokens/s alone, ${found.together.toFixed(0)} together`);
  }
  return compared;
}

/**
 * Runs a soak.
 * @param root the repository's root, with the library built
 * @param note told how far it is
 */
export async function soak(root: URL, settings: SoakSettings, note: (text: string) => void): Promise<SoakReport> {
  const folder = await mkdtemp(join(tmpdir(), "precis-soak-"));
  try {
    await using server = await ServerProcess.start(root, ["--store", folder, ...settings.serve]);
    const report = await soakServer(server, settings, note);
    const code = await server.stop();
    const troubles = server.troubles.map(({ event, reason }) => `${event}: ${reason}`);
    if (code !== 0) troubles.push(`the server ended with code ${code}`);
    report.errors += troubles.length;
    report.firstErrors.push(...troubles.slice(0, 5));
    return report;
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function soakServer(
  server: ServerProcess,
  settings: SoakSettings,
  note: (text: string) => void,
): Promise<SoakReport> {
  const { minutes, streams } = settings;
  const record: LoadRecord = { answers: [], errors: [] };
  const canTell = processorMs(server.pid) !== undefined;
  const others = watchOthers(() => processorMs(server.pid) ?? 0);
  let sessions: ClientSession[] = [];
  const filling = await watchMemory(server.pid, async () => {
    sessions = await fillSessions(server.url, settings, record);
  });
  note(`${sessions.length} sessions filled`);
  const memorySamples = await watchMemory(server.pid, () =>
    talk(server.url, sessions, { ...settings, milliseconds: 60_000 * minutes }, record),
  );
  note(`${record.answers.length} answers, ${record.errors.length} errors`);
  const comparison = await compare(server, sessions, settings, note);
  const share = others();
  const metrics = await server.metrics();
  const metric = (name: string): number => metrics.get(`precis_${name}`) ?? NaN;
  const errors = [...record.errors, ...(await findLost(server.url, sessions))];
  const { answers } = record;
  const gaps = answers.flatMap(({ pieceTimes }) =>
    pieceTimes.slice(1).map((time, i) => time - (pieceTimes[i] as number)),
  );
  return {
    sessions: sessions.length,
    streams,
    seconds: 60 * (memorySamples.at(-1)?.at ?? NaN),
    answers: answers.length,
    errors: errors.length + metric("save_failures"),
    firstErrors: errors.slice(0, 10),
    firstToken: spreadOf(answers.map(({ startedAt, pieceTimes }) => (pieceTimes[0] ?? NaN) - startedAt)),
    betweenTokens: spreadOf(gaps),
    tokensPerSecond: rateOf(answers),
    peakBytes: Math.max(...[...filling, ...memorySamples].map(({ value }) => value)),
    growth: growthOf(memorySamples),
    paging: {
      memoryBytes: metric("memory_bytes"),
      resident: metric("sessions_resident"),
      restored: metric("sessions_restored"),
      saved: metric("sessions_saved"),
    },
    comparison,
    others: canTell ? share : undefined,
    memorySamples,
  };
}
