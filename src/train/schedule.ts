/** @file Learning rate over a run. */

/** A learning-rate schedule. */
export interface ScheduleOptions {
  /** Highest rate. */
  learningRate: number;
  steps: number;
  /** Share of the steps during which the rate rises linearly from 0. */
  warmupRatio: number;
  kind: "cosine" | "constant";
}

/** The rate of `step`, counted from 0: linear warm-up, then half a cosine down to 0, or constant. */
export function learningRateAt(step: number, { learningRate, steps, warmupRatio, kind }: ScheduleOptions): number {
  const warmup = Math.ceil(steps * warmupRatio);
  if (step < warmup) return (learningRate * (step + 1)) / warmup;
  if (kind === "constant") return learningRate;
  const progress = (step - warmup) / Math.max(1, steps - warmup);
  return learningRate * 0.5 * (1 + Math.cos(Math.PI * progress));
}
