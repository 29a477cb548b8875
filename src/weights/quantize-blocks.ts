/** @file Block-wise quantisation of a weight matrix, in the layout of the MatMulNBits operator. */
import { PrecisError } from "../errors.js";

/** How a matrix is quantised. */
export interface BlockFormat {
  bits: 4 | 8;
  /** Weights of a row that share a scale: a power of two, 16 or more. */
  blockSize: number;
}

/** A quantised matrix. */
export interface QuantizedBlocks {
  /** [out, blocksPerRow, blockSize · bits / 8]; of two 4-bit codes in a byte, the first is in the low half. */
  blocks: Uint8Array;
  /** [out · blocksPerRow]; a weight is (code − zero point) · scale, with zero point 8 (4 bits) or 128 (8 bits). */
  scales: Float32Array;
}

/** Blocks that cover one row of `inFeatures` weights. */
export function blocksPerRow(inFeatures: number, blockSize: number): number {
  return Math.ceil(inFeatures / blockSize);
}

/** Throws OPTION_INVALID unless MatMulNBits has this format. */
export function checkBlockFormat({ bits, blockSize }: BlockFormat): void {
  if (bits !== 4 && bits !== 8) {
    throw new PrecisError("OPTION_INVALID", `Weights cannot have ${String(bits)} bits.`, { nextStep: "Use 4 or 8." });
  }
  if (!(blockSize >= 16 && blockSize <= 256 && Number.isInteger(Math.log2(blockSize)))) {
    const nextStep = "Use 16, 32, 64, 128 or 256.";
    throw new PrecisError("OPTION_INVALID", `Weights cannot have blocks of ${String(blockSize)}.`, { nextStep });
  }
}

/**
 * Quantises a matrix, each block of a row with its own scale and an implicit zero point. Where the block size does not
 * divide a row, the last block of the row is filled up with zeros.
 * @param weights [out, in]
 * @throws WEIGHTS_INVALID if a weight is NaN or infinite; INPUT_INVALID if the sizes do not fit
 */
export function quantizeBlocks(
  weights: Float32Array,
  outFeatures: number,
  inFeatures: number,
  format: BlockFormat,
): QuantizedBlocks {
  checkBlockFormat(format);
  if (weights.length !== outFeatures * inFeatures) {
    const message = `A matrix [${outFeatures}, ${inFeatures}] cannot have ${weights.length} weights.`;
    throw new PrecisError("INPUT_INVALID", message);
  }
  const { bits, blockSize } = format;
  const perRow = blocksPerRow(inFeatures, blockSize);
  const blockBytes = (blockSize * bits) / 8;
  const blocks = new Uint8Array(outFeatures * perRow * blockBytes);
  const scales = new Float32Array(outFeatures * perRow);
  const block = new Float32Array(blockSize);
  const encode = bits === 4 ? encodeBlock4 : encodeBlock8;
  for (let row = 0, index = 0; row < outFeatures; row++) {
    for (let column = 0; column < inFeatures; column += blockSize, index++) {
      const start = row * inFeatures + column;
      const count = Math.min(blockSize, inFeatures - column);
      for (let i = 0; i < count; i++) block[i] = weights[start + i] as number;
      if (count < blockSize) block.fill(0, count);
      const scale = encode(block, blocks, index * blockBytes);
      if (!Number.isFinite(scale)) throw nonFinite(row, column);
      scales[index] = scale;
    }
  }
  return { blocks, scales };
}

function nonFinite(row: number, column: number): PrecisError {
  const message = `A weight of row ${row} at or after column ${column} is NaN or infinite.`;
  return new PrecisError("WEIGHTS_INVALID", message, { nextStep: "Download the model again." });
}

/** The value of largest magnitude, with its sign. */
function signedMaximum(block: Float32Array): number {
  let maximum = 0;
  let magnitude = 0;
  for (let i = 0; i < block.length; i++) {
    const value = block[i] as number;
    const size = Math.abs(value);
    if (size > magnitude) {
      magnitude = size;
      maximum = value;
    }
  }
  return maximum;
}

/**
 * Where on the signed range, −8 to 7, the largest value may be put. −8 alone with the best scale leaves 8.4 % error on
 * normal weights, these five 8.1 %, a search over twenty 8.09 %. Beyond −8 the largest value is clipped, which pays
 * when the rest of the block is small.
 */
const TARGETS: readonly number[] = [-8, -7.2, -7.6, -8.4, -8.8];

/**
 * Quantises one block to 4 bits and returns its scale. Of a few roundings, it keeps the one that leaves the least
 * squared error under its own best scale. For codes q of values x that scale is Σxq / Σq², and the error it leaves is
 * Σx² − (Σxq)² / Σq².
 */
function encodeBlock4(block: Float32Array, target: Uint8Array, offset: number): number {
  const maximum = signedMaximum(block);
  let best = 0;
  let bestGain = -1;
  let bestScale = 0;
  for (let candidate = 0; candidate < TARGETS.length; candidate++) {
    const inverse = maximum === 0 ? 0 : (TARGETS[candidate] as number) / maximum;
    let products = 0;
    let squares = 0;
    for (let i = 0; i < block.length; i++) {
      const value = block[i] as number;
      const code = code4(value * inverse) - 8;
      products += value * code;
      squares += code * code;
    }
    const gain = squares === 0 ? 0 : (products * products) / squares;
    // Negated, so that the first candidate also wins over nothing when the values are NaN.
    if (!(gain <= bestGain)) {
      best = inverse;
      bestGain = gain;
      bestScale = squares === 0 ? products : products / squares;
    }
  }
  for (let i = 0; i < block.length; i += 2) {
    const low = code4((block[i] as number) * best);
    const high = code4((block[i + 1] as number) * best);
    target[offset + i / 2] = low | (high << 4);
  }
  return bestScale;
}

/** The 4-bit code nearest to `value`, zero point added. Truncation rounds, because the sum is positive. */
function code4(value: number): number {
  const code = (value + 8.5) | 0;
  return code > 15 ? 15 : code < 0 ? 0 : code;
}

/** Quantises one block to 8 bits and returns its scale. The range is wide enough that searching gains nothing. */
function encodeBlock8(block: Float32Array, target: Uint8Array, offset: number): number {
  const maximum = signedMaximum(block);
  const inverse = maximum === 0 ? 0 : -128 / maximum;
  let sum = 0;
  for (let i = 0; i < block.length; i++) {
    const value = (block[i] as number) * inverse;
    sum += value;
    const code = (value + 128.5) | 0;
    target[offset + i] = code > 255 ? 255 : code;
  }
  // The sum is finite only if every value was.
  return Number.isFinite(sum) ? maximum / -128 : NaN;
}
