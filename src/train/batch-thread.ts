/** @file Batches made by a thread of their own, ahead of need: tokenising and masks then cost the device no waiting. */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { EpisodeSampler, type SampleOptions } from "../data/sample.js";
import type { Episode } from "../data/episode.js";
import { PrecisError, type SerializedError } from "../errors.js";
import { openBaseModel } from "./base-model.js";
import { packedBatches, type BatchOptions, type PlannedBatch } from "./batches.js";
import { segmentedBatches, type SegmentBatchOptions } from "./segment-batches.js";
import type { SegmentedBatch } from "./segments.js";
import type { DistilledBatch } from "./training-batch.js";

/** Sample options without what cannot be sent to a thread. */
export type PortableSample = Omit<SampleOptions, "tokenizer" | "template" | "signal">;

/** What the thread makes batches of. */
export interface BatchThreadOptions {
  modelDirectory: string;
  sample: PortableSample;
  batches: BatchOptions | SegmentBatchOptions;
  /** Batches to leave out. */
  skip: number;
}

/** The batches that options ask for. */
type BatchOf<Options> = Options extends SegmentBatchOptions ? SegmentedBatch : DistilledBatch;

type Answer = { batch: DistilledBatch | SegmentedBatch } | { error: SerializedError } | { done: true };

/** Batches that are ready or in the making while the caller works on one. */
const LOOKAHEAD = 3;

/** Endless batches from a worker thread, which ends with the iteration. */
export async function* workerBatches<Options extends BatchThreadOptions>(
  options: Options,
): AsyncGenerator<BatchOf<Options["batches"]>, void, void> {
  const worker = new Worker(new URL(import.meta.url), { workerData: options });
  const answers: Answer[] = [];
  let wake: () => void = () => undefined;
  const receive = (answer: Answer): void => {
    answers.push(answer);
    wake();
  };
  worker.on("message", receive);
  worker.on("error", (error) =>
    receive({ error: PrecisError.from(error, "ENGINE_FAILED", "Making batches failed").toJSON() }),
  );
  try {
    for (let i = 0; i < LOOKAHEAD; i++) worker.postMessage("next");
    for (;;) {
      while (answers.length === 0) await new Promise<void>((resolve) => (wake = resolve));
      const answer = answers.shift() as Answer;
      if ("error" in answer) throw PrecisError.fromJSON(answer.error);
      if ("done" in answer) return;
      worker.postMessage("next");
      yield answer.batch as BatchOf<Options["batches"]>;
    }
  } finally {
    await worker.terminate();
  }
}

async function* endless(sampler: EpisodeSampler): AsyncGenerator<Episode, void, void> {
  for (let index = 0; ; index++) yield sampler.at(index);
}

function planBatches(
  episodes: AsyncIterable<Episode>,
  options: BatchThreadOptions["batches"],
): AsyncGenerator<PlannedBatch<DistilledBatch | SegmentedBatch>, void, void> {
  return "shape" in options ? segmentedBatches(episodes, options) : packedBatches(episodes, options);
}

/** Serves one batch per request. */
async function serve(options: BatchThreadOptions): Promise<void> {
  const { tokenizer, template } = await openBaseModel(options.modelDirectory);
  const sampler = await EpisodeSampler.open({ ...options.sample, tokenizer, template });
  const batches = planBatches(endless(sampler), options.batches);
  let skipped = 0;
  let last: Promise<void> = Promise.resolve();
  const answerNext = async (): Promise<void> => {
    for (; skipped < options.skip; skipped++) await batches.next();
    const { value, done } = await batches.next();
    if (done === true) {
      parentPort?.postMessage({ done: true } satisfies Answer);
      return;
    }
    const batch = value.build();
    // Masks are most of it, and change owner without being copied.
    const masks = "segments" in batch ? batch.segments.map(({ tokens }) => tokens) : [batch];
    const buffers = masks.map(({ attendBits }) => attendBits.buffer);
    parentPort?.postMessage({ batch } satisfies Answer, buffers as ArrayBuffer[]);
  };
  const fail = (error: unknown): void =>
    parentPort?.postMessage({ error: PrecisError.from(error, "ENGINE_FAILED", "Making batches failed").toJSON() });
  parentPort?.on("message", () => {
    last = last.then(answerNext).catch(fail);
  });
}

// The module is its own thread's entry point.
if (!isMainThread && (workerData as Partial<BatchThreadOptions> | null)?.modelDirectory !== undefined) {
  await serve(workerData as BatchThreadOptions);
}
