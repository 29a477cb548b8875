/** @file Differences between what the library computes and what it should. */

/** The largest absolute value. */
export function largest(values: ArrayLike<number>): number {
  let result = 0;
  for (let i = 0; i < values.length; i++) result = Math.max(result, Math.abs(values[i]));
  return result;
}

/** The largest absolute difference; infinite when the lengths differ, NaN when an element is. */
export function difference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let result = 0;
  for (let i = 0; i < actual.length; i++) {
    const here = Math.abs(actual[i] - expected[i]);
    if (!(here <= result)) result = here;
  }
  return result;
}

/** Rows [first, last) of a row-major [rows, width]. */
export function rowsOf(data: Float32Array, width: number, first: number, last: number): Float32Array {
  return data.subarray(first * width, last * width);
}

/** Rows [first, last) of every head of a row-major [heads, rows, size]. */
export function headRows(
  data: Float32Array,
  [heads, rows, size]: readonly [heads: number, rows: number, size: number],
  first: number,
  last: number,
): Float32Array {
  const count = last - first;
  const result = new Float32Array(heads * count * size);
  for (let head = 0; head < heads; head++) {
    const start = (head * rows + first) * size;
    result.set(data.subarray(start, start + count * size), head * count * size);
  }
  return result;
}
