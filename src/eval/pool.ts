/** @file Spreads jobs over copies of a model, each in a worker of its own. */
import { AbortListeners } from "../abort-listeners.js";
import type { LanguageModel } from "../runtime/model.js";
import { throwIfAborted } from "../weights/files.js";

/**
 * Runs every job on whichever model is free next; jobs start in order, and results come in the order of the jobs. After
 * a failure no job starts, and those under way are cancelled before the first error is thrown.
 */
export async function spread<Job, Result>(
  models: readonly LanguageModel[],
  jobs: readonly Job[],
  work: (model: LanguageModel, job: Job, signal: AbortSignal) => Promise<Result>,
  signal?: AbortSignal,
): Promise<Result[]> {
  const failure = new AbortController();
  const results: Result[] = [];
  const queue = jobs.entries();
  const errors: unknown[] = [];
  const lane = async (model: LanguageModel, either: AbortSignal): Promise<void> => {
    for (const [index, job] of queue) {
      throwIfAborted(either, "The evaluation");
      results[index] = await work(model, job, either);
    }
  };
  const listeners = new AbortListeners();
  await Promise.all(
    models.map(async (model) => {
      try {
        // A signal for each model, since each listens on its own and Node takes many listeners on one for a leak.
        await listeners.withAny([signal, failure.signal], (either) => lane(model, either));
      } catch (error) {
        errors.push(error);
        failure.abort();
      }
    }),
  );
  if (errors.length > 0) throw errors[0];
  return results;
}
