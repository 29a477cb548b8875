/** @file Works on the jobs of the queue, one after another, and hands back what it cannot finish. */
import type { Job } from "bullmq";
import { AbortListeners } from "../../abort-listeners.js";
import { PrecisError, type ErrorCode } from "../../errors.js";
import { ingest, type IngestEnvironment, type IngestProgress, type IngestResult, type IngestTask } from "./ingest.js";
import { cancelKey, connectRedis, loadBullmq, QUEUE_NAME } from "./queue.js";

/** How a worker works. */
export interface WorkerOptions {
  /** Jobs at once. */
  concurrency: number;
  /** Milliseconds after which others take over the job of a worker that is silent. */
  stalledMs: number;
  onEvent: (event: WorkerEvent) => void;
}

/** What happens to a job. */
export interface WorkerEvent {
  event: "job-started" | "job-progress" | "job-completed" | "job-failed" | "job-cancelled" | "job-returned";
  job: string;
  session: string;
  progress?: IngestProgress;
  result?: IngestResult;
  reason?: string;
  /** Whether it will be tried again. */
  retried?: boolean;
}

/** A worker at work. */
export interface IngestWorker {
  /** Takes no new jobs, and puts those at work back in line; they go on where they were saved. */
  close: () => Promise<void>;
}

/** Failures that another run may not have. */
const PASSING: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "STORE_UNAVAILABLE",
  "STORE_CONFLICT",
  "LEASE_LOST",
  "OUT_OF_MEMORY",
  "ENGINE_FAILED",
]);
/** How long a job waits whose session another one works on, or that was put back. */
const RETURN_MS = 2000;
const CANCEL_CHECK_MS = 500;
/** Workers that may die over one job before it counts as failed. */
const DEATHS = 10;

/**
 * Begins to work on the jobs in a queue.
 * @param url of Redis or Valkey
 * @throws DEPENDENCY_MISSING, STORE_UNAVAILABLE
 */
export async function startWorker(
  url: string,
  environment: IngestEnvironment,
  { concurrency, stalledMs, onEvent }: WorkerOptions,
): Promise<IngestWorker> {
  const { Worker, UnrecoverableError, DelayedError } = await loadBullmq();
  const redis = await connectRedis(url);
  const stopping = new AbortController();
  const listeners = new AbortListeners();

  const work = async (job: Job<IngestTask, IngestResult>, token?: string): Promise<IngestResult> => {
    const id = job.id as string;
    const about = { job: id, session: job.data.session };
    const cancelled = new AbortController();
    const check = async (): Promise<void> => {
      if ((await redis.exists(cancelKey(id))) === 1) cancelled.abort();
    };
    const timer = setInterval(() => void check().catch(() => undefined), CANCEL_CHECK_MS);
    const giveBack = async (reason: string): Promise<never> => {
      onEvent({ event: "job-returned", ...about, reason });
      await job.moveToDelayed(Date.now() + RETURN_MS, token);
      throw new DelayedError();
    };
    try {
      await check();
      onEvent({ event: "job-started", ...about });
      const onProgress = (progress: IngestProgress): void => {
        onEvent({ event: "job-progress", ...about, progress });
        // What the queue shows may lag behind; what counts is in the session.
        void job.updateProgress({ ...progress }).catch(() => undefined);
      };
      const result = await listeners.withAny([stopping.signal, cancelled.signal], (signal) => {
        signal.throwIfAborted();
        return ingest(environment, job.data, { signal, onProgress });
      });
      onEvent({ event: "job-completed", ...about, result });
      return result;
    } catch (error) {
      if (cancelled.signal.aborted) {
        onEvent({ event: "job-cancelled", ...about });
        throw new UnrecoverableError("cancelled");
      }
      if (stopping.signal.aborted) return await giveBack("the worker stops");
      const code = error instanceof PrecisError ? error.code : undefined;
      const reason = error instanceof Error ? error.message : String(error);
      if (code === "LEASE_HELD") return await giveBack(reason);
      const isPassing = code !== undefined && PASSING.has(code);
      const retried = isPassing && job.attemptsMade + 1 < (job.opts.attempts ?? 1);
      onEvent({ event: "job-failed", ...about, reason, retried });
      throw isPassing ? error : new UnrecoverableError(reason);
    } finally {
      clearInterval(timer);
    }
  };

  const worker = new Worker<IngestTask, IngestResult>(QUEUE_NAME, work, {
    connection: redis,
    concurrency,
    lockDuration: stalledMs,
    stalledInterval: stalledMs,
    maxStalledCount: DEATHS,
  });
  // Redis may go away and come back; jobs say themselves what becomes of them.
  worker.on("error", () => undefined);
  return {
    close: async () => {
      stopping.abort();
      await worker.close();
      redis.disconnect();
    },
  };
}
