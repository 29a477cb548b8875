/** @file Chooses the next token from logits: greedy or sampled, reproducible by seed. */
import { PrecisError } from "../errors.js";

/** How the next token is chosen. */
export interface SamplingOptions {
  /** 0 is greedy; larger values flatten the distribution. Default 0. */
  temperature?: number;
  /** Sample among this many most likely tokens; 0 means all. Default 0. */
  topK?: number;
  /** Sample among the most likely tokens that together reach this probability. Default 1. */
  topP?: number;
  /** Drop tokens less likely than this share of the most likely one. Default 0. */
  minP?: number;
  /** Divide the logits of tokens already seen, if positive, by this, else multiply. Default 1. */
  repetitionPenalty?: number;
  /** Makes sampling reproducible. Default: drawn at random. */
  seed?: number;
  /** Report this many most likely tokens with each chosen one. Default: no log-probabilities at all. */
  logprobs?: number;
}

/** A token and the natural logarithm of its probability before temperature and filters. */
export interface TokenLogprob {
  id: number;
  logprob: number;
}

/** A chosen token. */
export interface Sample {
  id: number;
  /** Present when `logprobs` was asked for. */
  logprob?: number;
  top?: TokenLogprob[];
}

/** Seeded uniform numbers in [0, 1): the 32-bit generator mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function checkRange(name: string, value: number, min: number, max: number): void {
  if (value >= min && value <= max) return;
  throw new PrecisError("OPTION_INVALID", `The sampling option ${name} must be from ${min} to ${max}, not ${value}.`, {
    value,
  });
}

/** Log of the sum of exponentials, in float64. */
function logSumExp(logits: ArrayLike<number>): number {
  let max = -Infinity;
  for (let i = 0; i < logits.length; i++) max = Math.max(max, logits[i] as number);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp((logits[i] as number) - max);
  return max + Math.log(sum);
}

/** Log-probability of `id` under the softmax of `logits`. */
export function logProbability(logits: ArrayLike<number>, id: number): number {
  return (logits[id] as number) - logSumExp(logits);
}

/** Index of the largest value; the first one where several are equal. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}

/** The `count` most likely tokens, most likely first. */
function mostLikely(logits: Float32Array, count: number): number[] {
  const top: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    if (top.length === count && logit <= (logits[top[count - 1] as number] as number)) continue;
    let place = top.length;
    while (place > 0 && (logits[top[place - 1] as number] as number) < logit) place--;
    top.splice(place, 0, id);
    if (top.length > count) top.pop();
  }
  return top;
}

/** Tokens that may be chosen. */
export interface AllowedTokens {
  /** One bit per token: bit `id % 32` of word `id / 32`. */
  mask: Uint32Array;
  /** Further ones. */
  more: Iterable<number>;
}

/** The logits of tokens that are allowed, and -Infinity for the others. */
function masked(logits: Float32Array, { mask, more }: AllowedTokens): Float32Array {
  const allowed = new Float32Array(logits.length).fill(-Infinity);
  for (let word = 0; word < mask.length; word++) {
    for (let bits = mask[word] as number; bits !== 0; bits &= bits - 1) {
      const id = word * 32 + 31 - Math.clz32(bits & -bits);
      allowed[id] = logits[id] as number;
    }
  }
  for (const id of more) allowed[id] = logits[id] as number;
  return allowed;
}

/** Chooses tokens for one generation. Remembers which tokens were seen, for the repetition penalty. */
export class Sampler {
  readonly #options: Required<Omit<SamplingOptions, "logprobs" | "seed">>;
  readonly #logprobs: number | undefined;
  readonly #random: () => number;
  readonly #seen = new Set<number>();

  /** @throws OPTION_INVALID for a value out of range */
  constructor(options: SamplingOptions, context: Iterable<number> = []) {
    const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
    checkRange("temperature", temperature, 0, 100);
    checkRange("topK", topK, 0, Number.MAX_SAFE_INTEGER);
    checkRange("topP", topP, 0, 1);
    checkRange("minP", minP, 0, 1);
    checkRange("repetitionPenalty", repetitionPenalty, 0.01, 100);
    if (options.logprobs !== undefined) checkRange("logprobs", options.logprobs, 0, 1000);
    this.#options = { temperature, topK, topP, minP, repetitionPenalty };
    this.#logprobs = options.logprobs;
    this.#random = seededRandom(options.seed ?? Math.floor(Math.random() * 2 ** 32));
    for (const id of context) this.#seen.add(id);
  }

  /** Chooses from the logits [vocab] of the last token, among all tokens or those that are allowed. */
  sample(logits: Float32Array, allowed?: AllowedTokens): Sample {
    const penalized = this.#penalized(logits);
    const id = this.#choose(allowed === undefined ? penalized : masked(penalized, allowed));
    this.#seen.add(id);
    if (this.#logprobs === undefined) return { id };
    const normalizer = logSumExp(logits);
    const logprob = (token: number): number => (logits[token] as number) - normalizer;
    return {
      id,
      logprob: logprob(id),
      top: mostLikely(logits, this.#logprobs).map((token) => ({ id: token, logprob: logprob(token) })),
    };
  }

  #penalized(logits: Float32Array): Float32Array {
    const { repetitionPenalty } = this.#options;
    if (repetitionPenalty === 1) return logits;
    const penalized = Float32Array.from(logits);
    for (const id of this.#seen) {
      const logit = penalized[id];
      if (logit !== undefined) penalized[id] = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
    }
    return penalized;
  }

  #choose(logits: Float32Array): number {
    const { temperature, topK, topP, minP } = this.#options;
    if (temperature === 0) return argmax(logits);
    const candidates = topK > 0 && topK < logits.length ? mostLikely(logits, topK) : [...logits.keys()];
    const max = candidates.reduce((best, id) => Math.max(best, logits[id] as number), -Infinity);
    const weights = candidates.map((id) => Math.exp(((logits[id] as number) - max) / temperature));
    // exp(0) = 1 is the weight of the most likely token, so minP compares with the weights directly.
    let kept = candidates
      .map((id, index) => ({ id, weight: weights[index] as number }))
      .filter(({ weight }) => weight >= minP && weight > 0);
    if (topP < 1) kept = nucleus(kept, topP);
    let rest = this.#random() * kept.reduce((sum, { weight }) => sum + weight, 0);
    for (const { id, weight } of kept) {
      rest -= weight;
      if (rest < 0) return id;
    }
    return (kept[kept.length - 1] as { id: number }).id;
  }
}

/** The smallest set of most likely candidates that reaches the share `topP` of all weight. */
function nucleus(candidates: { id: number; weight: number }[], topP: number): { id: number; weight: number }[] {
  const sorted = candidates.sort((a, b) => b.weight - a.weight);
  const goal = topP * sorted.reduce((sum, { weight }) => sum + weight, 0);
  let reached = 0;
  const size = sorted.findIndex(({ weight }) => (reached += weight) >= goal);
  return size < 0 ? sorted : sorted.slice(0, size + 1);
}
