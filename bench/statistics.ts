/** @file Arithmetic of measurements: percentiles, means, and whether a series of samples grows. */

/** The value that a share of all values does not exceed, between the nearest two of them; NaN of none. */
export function percentile(values: readonly number[], share: number): number {
  if (values.length === 0) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const [below, above] = [sorted[Math.floor(place)] as number, sorted[Math.ceil(place)] as number];
  return below + (above - below) * (place - Math.floor(place));
}

/** The mean; NaN of no values. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** A value at a time. */
export interface Sample {
  /** In any unit. */
  at: number;
  value: number;
}

/** Slope of the straight line of least squares, in units of value per unit of time; NaN of samples at one time only. */
export function slope(samples: readonly Sample[]): number {
  const [meanAt, meanValue] = [mean(samples.map(({ at }) => at)), mean(samples.map(({ value }) => value))];
  const [product, square] = samples.reduce(
    ([xy, xx], { at, value }) => [xy + (at - meanAt) * (value - meanValue), xx + (at - meanAt) ** 2],
    [0, 0],
  );
  return square === 0 ? NaN : product / square;
}

/** How a series goes on in its second half. */
export interface Growth {
  /** Per unit of time, in the second half. */
  slope: number;
  /** Means of the third and the last quarter of the time. */
  third: number;
  last: number;
  /** The last quarter's mean against the third's: 0.01 for one per cent more. */
  change: number;
}

/** Compares the quarters of the second half of a series. */
export function growthOf(samples: readonly Sample[]): Growth {
  const start = samples[0]?.at ?? NaN;
  const span = (samples.at(-1)?.at ?? NaN) - start;
  const within = (from: number, to: number): Sample[] =>
    samples.filter(({ at }) => at >= start + from * span && at <= start + to * span);
  const [third, last] = [within(0.5, 0.75), within(0.75, 1)].map((part) => mean(part.map(({ value }) => value))) as [
    number,
    number,
  ];
  return { slope: slope(within(0.5, 1)), third, last, change: last / third - 1 };
}
