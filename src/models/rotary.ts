/** @file Rotary position embedding: inverse frequencies of each scaling scheme, and the tables of a run. */
import { PrecisError } from "../errors.js";
import type { ConfigReader } from "./config.js";

/** Rotation speeds of one kind of layer. */
export interface RotaryConfig {
  /** Radians per position of each rotated pair, [rotaryDim / 2]. */
  readonly inverseFrequencies: Float64Array;
  /** Factor on cosines and sines (YaRN and LongRoPE enlarge attention scores with it). */
  readonly attentionFactor: number;
  /** Shorter limit on positions that the scheme imposes. */
  readonly maxPositions?: number;
}

type RopeParameters = Readonly<Record<string, unknown>>;

function numberOf(parameters: RopeParameters, field: string, fallback?: number): number {
  const value = parameters[field] ?? fallback;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new PrecisError(
    "CONFIG_INVALID",
    `config.json: RoPE parameter "${field}" must be a number, not ${JSON.stringify(value)}.`,
    { value },
  );
}

function plainFrequencies(theta: number, rotaryDim: number): Float64Array {
  return Float64Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** (-(2 * i) / rotaryDim));
}

/** Llama 3.1: slow rotations are divided by the factor, fast ones kept, those between interpolated. */
function llama3Frequencies(plain: Float64Array, parameters: RopeParameters): Float64Array {
  const factor = numberOf(parameters, "factor");
  const low = numberOf(parameters, "low_freq_factor");
  const high = numberOf(parameters, "high_freq_factor");
  const original = numberOf(parameters, "original_max_position_embeddings");
  return plain.map((frequency) => {
    const turns = (original * frequency) / (2 * Math.PI);
    if (turns < low) return frequency / factor;
    if (turns > high) return frequency;
    const smooth = (turns - low) / (high - low);
    return (1 - smooth) * (frequency / factor) + smooth * frequency;
  });
}

/** YaRN (Peng et al. 2023, arXiv:2309.00071): interpolation by how often a pair turns within the original context. */
function yarn(plain: Float64Array, theta: number, parameters: RopeParameters, maxPositions: number): RotaryConfig {
  const rotaryDim = plain.length * 2;
  const original = numberOf(parameters, "original_max_position_embeddings", maxPositions);
  const factor = numberOf(parameters, "factor", maxPositions / original);
  const pairOfTurns = (turns: number): number =>
    (rotaryDim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const truncate = parameters["truncate"] !== false;
  const first = pairOfTurns(numberOf(parameters, "beta_fast", 32));
  const last = pairOfTurns(numberOf(parameters, "beta_slow", 1));
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  const high = Math.min(truncate ? Math.ceil(last) : last, rotaryDim - 1);
  const inverseFrequencies = plain.map((frequency, pair) => {
    const ramp = Math.min(Math.max((pair - low) / Math.max(high - low, 0.001), 0), 1);
    return (frequency / factor) * ramp + frequency * (1 - ramp);
  });
  const growth = (scale: number): number => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
  const mscale = parameters["mscale"];
  const mscaleAllDim = parameters["mscale_all_dim"];
  const computed =
    typeof mscale === "number" && typeof mscaleAllDim === "number" && mscale !== 0 && mscaleAllDim !== 0
      ? growth(mscale) / growth(mscaleAllDim)
      : growth(1);
  return { inverseFrequencies, attentionFactor: numberOf(parameters, "attention_factor", computed) };
}

/**
 * LongRoPE with its short factors, which hold up to the original context length. Its long factors would have to replace
 * the rotation of rows already cached as soon as the context outgrows that length, so we stop there instead.
 */
function longRope(
  plain: Float64Array,
  parameters: RopeParameters,
  original: number,
  maxPositions: number,
): RotaryConfig {
  const short = parameters["short_factor"];
  if (!Array.isArray(short) || short.length !== plain.length) {
    throw new PrecisError("CONFIG_INVALID", `config.json: "short_factor" must list ${plain.length} numbers.`, {
      value: short,
    });
  }
  const factor = numberOf(parameters, "factor", maxPositions / original);
  const computed = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
  return {
    inverseFrequencies: plain.map((frequency, i) => frequency / Number(short[i])),
    attentionFactor: numberOf(parameters, "attention_factor", computed),
    maxPositions: original,
  };
}

/** The rotary embedding of RoPE parameters as checkpoints write them. */
export function rotaryConfig(
  parameters: RopeParameters,
  headDim: number,
  maxPositions: number,
  originalMaxPositions: number = maxPositions,
): RotaryConfig {
  const theta = numberOf(parameters, "rope_theta", 10000);
  const rotaryDim = 2 * Math.floor((headDim * numberOf(parameters, "partial_rotary_factor", 1)) / 2);
  const plain = plainFrequencies(theta, rotaryDim);
  const type = parameters["rope_type"] ?? parameters["type"] ?? "default";
  switch (type) {
    case "default":
      return { inverseFrequencies: plain, attentionFactor: 1 };
    case "linear": {
      const factor = numberOf(parameters, "factor");
      return { inverseFrequencies: plain.map((frequency) => frequency / factor), attentionFactor: 1 };
    }
    case "llama3":
      return { inverseFrequencies: llama3Frequencies(plain, parameters), attentionFactor: 1 };
    case "yarn":
      return yarn(plain, theta, parameters, maxPositions);
    case "longrope":
    case "su":
      return longRope(plain, parameters, originalMaxPositions, maxPositions);
    default:
      throw new PrecisError("MODEL_UNSUPPORTED", `RoPE scaling ${JSON.stringify(type)} is not supported.`, {
        value: type,
        nextStep: "Supported: default, linear, llama3, yarn, longrope.",
      });
  }
}

/** Reads RoPE settings in the newer (`rope_parameters`) or the older form (`rope_theta` and `rope_scaling`). */
export function readRotary(config: ConfigReader, headDim: number): RotaryConfig {
  const maxPositions = config.number("max_position_embeddings");
  const parameters = {
    rope_theta: config.number("rope_theta", 10000),
    partial_rotary_factor: config.number("partial_rotary_factor", 1),
    ...config.object("rope_scaling"),
    ...config.object("rope_parameters"),
  };
  return rotaryConfig(
    parameters,
    headDim,
    maxPositions,
    config.number("original_max_position_embeddings", maxPositions),
  );
}

/** Cosines and sines of one run, [positions, rotaryDim / 2] each. */
export interface RotaryTable {
  cos: Float32Array;
  sin: Float32Array;
}

/** Tables for `positions`, computed in float64: exact at any position, however far a stream has run. */
export function rotaryTable(config: RotaryConfig, positions: ArrayLike<number>): RotaryTable {
  const pairs = config.inverseFrequencies.length;
  const cos = new Float32Array(positions.length * pairs);
  const sin = new Float32Array(positions.length * pairs);
  for (let row = 0; row < positions.length; row++) {
    for (let pair = 0; pair < pairs; pair++) {
      const angle = (positions[row] as number) * (config.inverseFrequencies[pair] as number);
      cos[row * pairs + pair] = Math.cos(angle) * config.attentionFactor;
      sin[row * pairs + pair] = Math.sin(angle) * config.attentionFactor;
    }
  }
  return { cos, sin };
}

/**
 * Turns one cached key, in place, by `delta` positions: as if it had been written that much later.
 * @param key a view of [headDim] elements starting at `offset`
 */
export function rotateKey(config: RotaryConfig, key: Float32Array, offset: number, delta: number): void {
  const pairs = config.inverseFrequencies.length;
  for (let pair = 0; pair < pairs; pair++) {
    const angle = delta * (config.inverseFrequencies[pair] as number);
    const cos = Math.cos(angle);
    const sin = Math.sin(angle);
    const first = key[offset + pair] as number;
    const second = key[offset + pair + pairs] as number;
    key[offset + pair] = first * cos - second * sin;
    key[offset + pair + pairs] = second * cos + first * sin;
  }
}
