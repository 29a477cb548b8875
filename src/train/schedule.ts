/** @file Learning rate over a run. */

/** A learning-rate schedule. */
export interface ScheduleOptions {
  /** Highest rate. */
  learningRate: number;
  steps: number;
  /** Length of the run in seconds, in place of `steps`: the rate follows the time that was trained. */
  duration?: number;
  /** Share of the run during which the rate rises linearly from 0. */
  warmupRatio: number;
  kind: "cosine" | "constant";
}

/** How much of a run is done, from 0 to 1. */
export function progressAt(step: number, seconds: number, { steps, duration }: ScheduleOptions): number {
  return Math.min(1, duration === undefined ? step / steps : seconds / duration);
}

/**
 * The rate of `step`, counted from 0: linear warm-up, then half a cosine down to 0, or constant.
 * @param seconds time trained before this step; what counts in a run of a given duration
 */
export function learningRateAt(step: number, schedule: ScheduleOptions, seconds = 0): number {
  const { learningRate, steps, duration, warmupRatio, kind } = schedule;
  const [done, length, next] = duration === undefined ? [step, steps, step + 1] : [seconds, duration, seconds];
  const warmup = duration === undefined ? Math.ceil(steps * warmupRatio) : duration * warmupRatio;
  if (done < warmup) return (learningRate * next) / warmup;
  if (kind === "constant") return learningRate;
  const progress = Math.min(1, (done - warmup) / Math.max(1, length - warmup));
  return learningRate * 0.5 * (1 + Math.cos(Math.PI * progress));
}
