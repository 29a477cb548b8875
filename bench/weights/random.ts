/** @file Deterministic random weights: the same bits on every machine, tensor by tensor, in any order. */

/** What decides a tensor's values. */
export interface NamedShape {
  name: string;
  shape: readonly number[];
}

/** Standard deviation of the weights, as most llama-style models are initialised. */
const DEVIATION = 0.02;

/** Marsaglia's xorshift: 32 bits per call, never all zero. */
export function xorshift(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** FNV-1a of a name, so that each tensor has its own stream. */
function seedOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** The nearest half float of a small normal number, rounded half up; enough for this table. */
function halfBits(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), -14);
  const fraction = Math.round((magnitude / 2 ** exponent - 1) * 1024);
  if (magnitude < 2 ** -14) return sign | Math.round(magnitude * 2 ** 24);
  return sign | (((exponent + 15) << 10) + fraction);
}

function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** 65,536 samples of a normal distribution as half floats (Box-Muller); a weight is one of them, picked by 16 random bits. */
const samples: Uint16Array = Uint16Array.from({ length: 65536 }, (_, index) => {
  const radius = Math.sqrt(-2 * Math.log((index + 0.5) / 65536));
  return halfBits(DEVIATION * radius * Math.cos(2 * Math.PI * ((index * 0.6180339887498949) % 1)));
});
const sampleValues: Float32Array = Float32Array.from(samples, halfValue);

function fill(
  { name, shape }: NamedShape,
  target: Uint16Array | Float32Array,
  table: typeof target,
  one: number,
): void {
  if (shape.length === 1) {
    target.fill(one);
    return;
  }
  const next = xorshift(seedOf(name));
  for (let i = 0; i + 1 < target.length; i += 2) {
    const word = next();
    target[i] = table[word & 0xffff] as number;
    target[i + 1] = table[word >>> 16] as number;
  }
}

const elements = ({ shape }: NamedShape): number => shape.reduce((product, size) => product * size, 1);

/** The tensor as half floats: normally distributed matrices, norms of one. */
export function randomHalfs(spec: NamedShape): Uint16Array {
  const values = new Uint16Array(elements(spec));
  fill(spec, values, samples, halfBits(1));
  return values;
}

/** The same values as {@link randomHalfs} gives, in float32. */
export function randomFloats(spec: NamedShape): Float32Array {
  const values = new Float32Array(elements(spec));
  fill(spec, values, sampleValues, 1);
  return values;
}
