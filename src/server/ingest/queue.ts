/** @file Bulk work as jobs of BullMQ on Redis or Valkey: put in line, looked at, called off. */
import { createHash } from "node:crypto";
import type * as Bullmq from "bullmq";
import type { Redis } from "ioredis";
import { optionalPackage } from "../../stores/optional-package.js";
import { unavailable } from "../../stores/conflicts.js";
import type { IngestProgress, IngestResult, IngestTask } from "./ingest.js";

/** The queue's name in Redis. */
export const QUEUE_NAME = "precis-ingest";

/** Seconds for which finished jobs can be looked at. */
const KEPT_SECONDS = 86_400;
/** Runs of a job that fails for reasons that may pass. */
const ATTEMPTS = 5;
const FIRST_PAUSE_MS = 1000;

/** A job as people and programs see it. */
export interface JobView {
  id: string;
  state: "waiting" | "running" | "completed" | "failed" | "cancelled" | "unknown";
  session?: string | undefined;
  progress?: IngestProgress | undefined;
  /** Runs that have begun. */
  attempts?: number | undefined;
  result?: IngestResult | undefined;
  /** Why it failed. */
  reason?: string | undefined;
}

/** A connection for jobs. @throws DEPENDENCY_MISSING without ioredis; STORE_UNAVAILABLE where no server answers */
export async function connectRedis(url: string): Promise<Redis> {
  const { Redis } = await optionalPackage("ioredis", () => import("ioredis"), "The job queue");
  // BullMQ waits for a server that comes back, however long that takes.
  const redis = new Redis(url, { lazyConnect: true, maxRetriesPerRequest: null });
  redis.on("error", () => undefined);
  try {
    await redis.connect();
  } catch (error) {
    redis.disconnect();
    throw unavailable("Redis", error);
  }
  return redis;
}

/** BullMQ. @throws DEPENDENCY_MISSING */
export function loadBullmq(): Promise<typeof Bullmq> {
  return optionalPackage("bullmq", () => import("bullmq"), "The job queue");
}

/** Where a note lies that a job is called off. */
export function cancelKey(id: string): string {
  return `precis:cancelled:${id}`;
}

/** The id of a task's job: the same task is one job, however often it is put in line. */
export function jobId({ namespace, session, documents }: IngestTask): string {
  const names = JSON.stringify([namespace, session, documents.map(({ id }) => id)]);
  return `ingest-${createHash("sha256").update(names).digest("hex").slice(0, 24)}`;
}

const STATES: Readonly<Record<Bullmq.JobState | "unknown", JobView["state"]>> = {
  waiting: "waiting",
  "waiting-children": "waiting",
  prioritized: "waiting",
  delayed: "waiting",
  active: "running",
  completed: "completed",
  failed: "failed",
  unknown: "unknown",
};

/** The line of jobs, for those who put something in. */
export class IngestQueue implements AsyncDisposable {
  readonly #redis: Redis;
  readonly #queue: Bullmq.Queue<IngestTask, IngestResult>;

  private constructor(redis: Redis, queue: Bullmq.Queue<IngestTask, IngestResult>) {
    this.#redis = redis;
    this.#queue = queue;
  }

  /**
   * Connects.
   * @param url such as `redis://user:password@host:6379/0`
   * @throws DEPENDENCY_MISSING without bullmq or ioredis; STORE_UNAVAILABLE
   */
  static async open(url: string): Promise<IngestQueue> {
    const { Queue } = await loadBullmq();
    const redis = await connectRedis(url);
    const queue = new Queue<IngestTask, IngestResult>(QUEUE_NAME, { connection: redis });
    queue.on("error", () => undefined);
    return new IngestQueue(redis, queue);
  }

  /** Puts a task in line, unless it waits or is being worked on already. One that ended is begun again. @returns its job's id */
  async add(task: IngestTask): Promise<string> {
    const id = jobId(task);
    const existing = await this.#queue.getJob(id);
    const isOver = existing !== undefined && ((await existing.isCompleted()) || (await existing.isFailed()));
    if (isOver) await existing.remove();
    await this.#redis.del(cancelKey(id));
    await this.#queue.add("ingest", task, {
      jobId: id,
      attempts: ATTEMPTS,
      backoff: { type: "exponential", delay: FIRST_PAUSE_MS },
      removeOnComplete: { age: KEPT_SECONDS },
      removeOnFail: { age: KEPT_SECONDS },
    });
    return id;
  }

  /** What became of a job. */
  async view(id: string): Promise<JobView> {
    const isCancelled = (await this.#redis.exists(cancelKey(id))) === 1;
    // The state first: a job that ends meanwhile then has its result, if not yet its state, and never the other way round.
    const state = STATES[await this.#queue.getJobState(id)];
    const job = await this.#queue.getJob(id);
    if (job === undefined) return { id, state: isCancelled ? "cancelled" : "unknown" };
    const { progress, attemptsStarted: attempts, returnvalue: result, failedReason: reason, data } = job;
    return {
      id,
      state: isCancelled && state === "failed" ? "cancelled" : state,
      session: data.session,
      progress: typeof progress === "object" ? (progress as IngestProgress) : undefined,
      attempts,
      result: result ?? undefined,
      reason,
    };
  }

  /** Calls a job off. What it has taken in stays. @returns whether there was one that had not ended */
  async cancel(id: string): Promise<boolean> {
    const { state } = await this.view(id);
    if (state !== "waiting" && state !== "running") return false;
    // Whoever works on it, or takes it up just now, looks for this.
    await this.#redis.set(cancelKey(id), "1", "EX", KEPT_SECONDS);
    const job = await this.#queue.getJob(id);
    if (state === "waiting") await job?.remove().catch(() => undefined);
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#queue.close();
    this.#redis.disconnect();
  }
}
