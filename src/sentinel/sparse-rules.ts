/**
 * @file The two baselines of sentinel compression, as rules about single tokens that training and inference share:
 * attention to the nearest tokens, and attention to tokens that were kept at random. As in the code of Ren et al. 2023
 * (arXiv:2310.08152), both leave a token the same share of its history, however long that is.
 */

/**
 * Local attention: the first token that token `index` sees. It sees the nearest (1 − ratio) of what came before it: a
 * window in proportion to its place.
 */
export function localStart(index: number, ratio: number): number {
  return Math.floor(index * ratio);
}

/**
 * Scattered attention: whether later tokens see token `index`, with probability 1 − ratio, the same for all of them.
 * Every token sees itself; none is protected, the first included.
 */
export function isScatteredKept(index: number, ratio: number, seed: number): boolean {
  return uniformOf(index, seed) >= ratio;
}

/** A number in [0, 1) that depends on both arguments only (murmur3's finaliser). */
function uniformOf(index: number, seed: number): number {
  let bits = (Math.imul(index + 1, 0x9e3779b1) ^ Math.imul(seed + 1, 0x85ebca6b)) >>> 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32;
}
