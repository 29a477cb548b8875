/** @file Axes of charts: from numbers to places, with ticks at round numbers. */

/** Maps values of an axis to places. */
export interface Scale {
  at: (value: number) => number;
  ticks: readonly number[];
}

/** Where an axis lies, in the units of the drawing. */
export type Range = readonly [from: number, to: number];

/** A linear axis that covers `values` and ends at round numbers. */
export function linearScale(values: readonly number[], range: Range, count = 5): Scale {
  const [low, high] = spread(values);
  const step = roundStep((high - low) / count);
  const first = Math.floor(low / step);
  const last = Math.ceil(high / step);
  const ticks = Array.from({ length: last - first + 1 }, (_, index) => tidy((first + index) * step));
  return { at: interpolate([first * step, last * step], range), ticks };
}

/**
 * A logarithmic axis that covers the positive `values`. Zero and less lie at its beginning, half a decade below, so that
 * a memory of no bytes has a place.
 */
export function logScale(values: readonly number[], range: Range): Scale {
  const positive = values.filter((value) => value > 0);
  const hasZero = positive.length < values.length;
  const [low, high] = positive.length === 0 ? [1, 10] : [Math.min(...positive), Math.max(...positive)];
  const from = Math.log10(low) - (hasZero ? 0.5 : 0.1);
  const place = interpolate([from, Math.log10(high) + 0.1], range);
  const wide = high / low > 30;
  const ticks: number[] = hasZero ? [0] : [];
  for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.log10(high); exponent++) {
    for (const digit of wide ? [1] : [1, 2, 5]) {
      const tick = tidy(digit * 10 ** exponent);
      if (tick >= low * 0.8 && tick <= high * 1.25) ticks.push(tick);
    }
  }
  return { at: (value) => place(value > 0 ? Math.log10(value) : from), ticks };
}

/** Points evenly apart, whatever their values: for time steps that double. */
export function pointScale(values: readonly number[], range: Range): Scale {
  const ticks = [...new Set(values)].sort((a, b) => a - b);
  const place = interpolate([-0.25, ticks.length - 0.75], range);
  return { at: (value) => place(ticks.indexOf(value)), ticks };
}

function spread(values: readonly number[]): [number, number] {
  const finite = values.filter((value) => Number.isFinite(value));
  if (finite.length === 0) return [0, 1];
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  return low === high ? [low - Math.abs(low) * 0.1 - 1e-6, high + Math.abs(high) * 0.1 + 1e-6] : [low, high];
}

function roundStep(rough: number): number {
  const unit = 10 ** Math.floor(Math.log10(rough));
  const digit = [1, 2, 5, 10].find((candidate) => candidate * unit >= rough) ?? 10;
  return digit * unit;
}

function interpolate([from, to]: Range, [start, end]: Range): (value: number) => number {
  return (value) => start + ((value - from) / (to - from)) * (end - start);
}

/** Removes the traces of binary fractions: 0.30000000000000004 is 0.3. */
function tidy(value: number): number {
  return Number(value.toPrecision(12));
}
