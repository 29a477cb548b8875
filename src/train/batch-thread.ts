/** @file Batches made by a thread of their own, ahead of need: tokenising and masks then cost the device no waiting. */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { EpisodeSampler, type SampleOptions } from "../data/sample.js";
import type { Episode } from "../data/episode.js";
import { PrecisError, type SerializedError } from "../errors.js";
import { openBaseModel } from "./base-model.js";
import { builtBatches, type BatchOptions } from "./batches.js";
import type { DistilledBatch } from "./training-batch.js";

/** Sample options without what cannot be sent to a thread. */
export type PortableSample = Omit<SampleOptions, "tokenizer" | "template" | "signal">;

/** What the thread makes batches of. */
export interface BatchThreadOptions {
  modelDirectory: string;
  sample: PortableSample;
  batches: BatchOptions;
  /** Batches to leave out. */
  skip: number;
}

type Answer = { batch: DistilledBatch } | { error: SerializedError } | { done: true };

/** Batches that are ready or in the making while the caller works on one. */
const LOOKAHEAD = 3;

/** Endless batches from a worker thread, which ends with the iteration. */
export async function* workerBatches(options: BatchThreadOptions): AsyncGenerator<DistilledBatch, void, void> {
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
      yield answer.batch;
    }
  } finally {
    await worker.terminate();
  }
}

async function* endless(sampler: EpisodeSampler): AsyncGenerator<Episode, void, void> {
  for (let index = 0; ; index++) yield sampler.at(index);
}

/** Serves one batch per request. */
async function serve(options: BatchThreadOptions): Promise<void> {
  const { tokenizer, template } = await openBaseModel(options.modelDirectory);
  const sampler = await EpisodeSampler.open({ ...options.sample, tokenizer, template });
  const batches = builtBatches(endless(sampler), options.batches, options.skip);
  let last: Promise<void> = Promise.resolve();
  const answerNext = async (): Promise<void> => {
    const { value, done } = await batches.next();
    const answer: Answer = done === true ? { done: true } : { batch: value };
    parentPort?.postMessage(answer, done === true ? [] : [value.attentionBias.buffer as ArrayBuffer]);
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
