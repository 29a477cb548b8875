/** @file The arithmetic of the reference decoder, in float64 loops over row-major arrays. */

/** `x · weightᵀ (+ bias)`, [rows, in] and [out, in] to [rows, out]. */
export function linear(x: Float64Array, weight: Float32Array, inputs: number, bias?: Float32Array): Float64Array {
  const rows = x.length / inputs;
  const outputs = weight.length / inputs;
  const y = new Float64Array(rows * outputs);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outputs; o++) {
      let sum = bias?.[o] ?? 0;
      for (let i = 0; i < inputs; i++) sum += x[r * inputs + i] * weight[o * inputs + i];
      y[r * outputs + o] = sum;
    }
  }
  return y;
}

/** RMS norm of each run of `weight.length` elements. */
export function rmsNorm(x: Float64Array, weight: Float32Array, epsilon: number): Float64Array {
  const size = weight.length;
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += size) {
    let squares = 0;
    for (let i = 0; i < size; i++) squares += x[start + i] ** 2;
    const scale = 1 / Math.sqrt(squares / size + epsilon);
    for (let i = 0; i < size; i++) y[start + i] = x[start + i] * scale * weight[i];
  }
  return y;
}

/** Elementwise sum. */
export function add(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, i) => value + b[i]);
}

/** [first, second, size] to [second, first, size]. */
export function swapAxes(x: Float64Array, first: number, second: number, size: number): Float64Array {
  const y = new Float64Array(x.length);
  for (let a = 0; a < first; a++) {
    for (let b = 0; b < second; b++) {
      const from = (a * second + b) * size;
      y.set(x.subarray(from, from + size), (b * first + a) * size);
    }
  }
  return y;
}

/** Rotates [heads, seq, headDim] in place: feature i pairs with i + headDim / 2, `frequencies` [headDim / 2] are per position. */
export function rotate(x: Float64Array, positions: ArrayLike<number>, frequencies: Float64Array): void {
  const half = frequencies.length;
  for (let start = 0, row = 0; start < x.length; start += 2 * half, row++) {
    const position = positions[row % positions.length];
    for (let i = 0; i < half; i++) {
      const angle = position * frequencies[i];
      const [a, b] = [x[start + i], x[start + half + i]];
      x[start + i] = a * Math.cos(angle) - b * Math.sin(angle);
      x[start + half + i] = b * Math.cos(angle) + a * Math.sin(angle);
    }
  }
}

/** Replaces rows of [heads, seq, size] that have weights by the weighted sum of the rows before any replacement. */
export function average(x: Float64Array, weights: ArrayLike<number>, seq: number, size: number): Float64Array {
  const y = x.slice();
  const heads = x.length / (seq * size);
  for (let i = 0; i < seq; i++) {
    const columns = Array.from({ length: seq }, (_, j) => j).filter((j) => weights[i * seq + j] !== 0);
    if (columns.length === 0) continue;
    for (let h = 0; h < heads; h++) {
      for (let d = 0; d < size; d++) {
        const at = (row: number): number => (h * seq + row) * size + d;
        y[at(i)] = columns.reduce((sum, j) => sum + weights[i * seq + j] * x[at(j)], 0);
      }
    }
  }
  return y;
}

/** `past` rows, then `fresh` ones, of [heads, rows, size]. */
export function joinRows(past: Float64Array | undefined, fresh: Float64Array, heads: number): Float64Array {
  if (past === undefined) return fresh;
  const y = new Float64Array(past.length + fresh.length);
  const [p, f] = [past.length / heads, fresh.length / heads];
  for (let h = 0; h < heads; h++) {
    y.set(past.subarray(h * p, (h + 1) * p), h * (p + f));
    y.set(fresh.subarray(h * f, (h + 1) * f), h * (p + f) + p);
  }
  return y;
}

/** Rows [start, end) of every head of [heads, rows, size]; the end defaults to the last row. */
export function sliceRows(x: Float64Array, heads: number, size: number, start: number, end?: number): Float64Array {
  const stride = x.length / heads;
  const length = (end ?? stride / size) - start;
  const y = new Float64Array(heads * length * size);
  for (let h = 0; h < heads; h++) {
    const from = h * stride + start * size;
    y.set(x.subarray(from, from + length * size), h * length * size);
  }
  return y;
}
