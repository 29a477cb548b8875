/** @file Jobs spread over copies of a model. */
import { expect, test } from "vitest";
import { spread } from "#precis/eval/pool.js";
import type { LanguageModel } from "#precis/runtime/model.js";

const models = (count: number): LanguageModel[] => Array.from({ length: count }, () => ({}) as LanguageModel);

test("many copies listen for the end without a warning of leaking listeners", async () => {
  const warnings: string[] = [];
  const collect = ({ name }: Error): unknown => warnings.push(name);
  process.on("warning", collect);
  try {
    const work = async (_: LanguageModel, job: number, signal: AbortSignal): Promise<number> => {
      const listener = (): void => undefined;
      signal.addEventListener("abort", listener);
      await new Promise((resolve) => setTimeout(resolve, 5));
      signal.removeEventListener("abort", listener);
      return job * job;
    };
    const jobs = Array.from({ length: 60 }, (_, job) => job);
    expect(await spread(models(40), jobs, work, new AbortController().signal)).toEqual(jobs.map((job) => job * job));
  } finally {
    process.off("warning", collect);
  }
  expect(warnings).toEqual([]);
});

test("a failure cancels what the other copies do, and is thrown", async () => {
  const cancelled: number[] = [];
  const work = (_: LanguageModel, job: number, signal: AbortSignal): Promise<number> => {
    if (job === 2) return Promise.reject(new Error("job 2 failed"));
    return new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => {
        cancelled.push(job);
        reject(new Error("cancelled"));
      });
    });
  };
  await expect(spread(models(3), [0, 1, 2, 3], work)).rejects.toThrow("job 2 failed");
  expect(cancelled.sort()).toEqual([0, 1]);
});
