/** @file The trained numbers of a compression adapter, all in one flat vector: LoRA matrices and COMP embeddings. */
import type { DecoderConfig } from "../models/config.js";
import type { LoraTarget } from "../models/decoder-io.js";
import { projectionSize } from "../models/projections.js";
import { seededRandom } from "../runtime/sampler.js";

/** One tensor inside the flat vector. */
export interface ParameterSlice {
  /** `lora_a.LAYER.TARGET`, `lora_b.LAYER.TARGET`, `comp_embeddings` or `summary_log_gain`. */
  name: string;
  shape: readonly number[];
  /** First element. */
  offset: number;
  /** Number of elements. */
  size: number;
}

/** What is trained. */
export interface ParameterSpec {
  rank: number;
  targets: readonly LoraTarget[];
  /** New input tokens; 0 for an ordinary LoRA. */
  compTokens: number;
  /** Whether summaries of the new tokens are passed on, scaled by a gain that is learned as its logarithm. */
  summaryGain?: boolean;
}

/** Where each tensor lies in the flat vector. */
export interface ParameterLayout {
  slices: readonly ParameterSlice[];
  /** Elements of the whole vector. */
  size: number;
}

/** Name of a LoRA matrix's slice. */
export function loraName(side: "a" | "b", layer: number, target: string): string {
  return `lora_${side}.${layer}.${target}`;
}

/** Lays the parameters of an adapter out. */
export function layoutParameters(config: DecoderConfig, spec: ParameterSpec): ParameterLayout {
  const slices: ParameterSlice[] = [];
  let offset = 0;
  const place = (name: string, shape: readonly number[]): void => {
    const size = shape.reduce((product, length) => product * length, 1);
    slices.push({ name, shape, offset, size });
    offset += size;
  };
  for (let layer = 0; layer < config.layerCount; layer++) {
    for (const target of spec.targets) {
      const [inFeatures, outFeatures] = projectionSize(config, target);
      place(loraName("a", layer, target), [spec.rank, inFeatures]);
      place(loraName("b", layer, target), [outFeatures, spec.rank]);
    }
  }
  if (spec.compTokens > 0) place("comp_embeddings", [spec.compTokens, config.hiddenSize]);
  if (spec.summaryGain === true) place("summary_log_gain", [config.hiddenSize]);
  return { slices, size: offset };
}

/**
 * Starting values as the reference's: A uniform within ±1/√in (Kaiming with a = √5), B zero, and COMP embedding k the mean
 * of the vocabulary rows k, k + N, k + 2N, … for N = compTokens. The gain of summaries gives them the norm of vocabulary rows.
 * @param vocabularyRow reads one row of the embedding table
 * @param finalNorm factors of the last norm, [hidden], which decide how large summaries are; needed for their gain only
 */
export function initialParameters(
  config: DecoderConfig,
  layout: ParameterLayout,
  seed: number,
  vocabularyRow: (id: number) => Float32Array,
  finalNorm?: Float32Array,
): Float32Array {
  const random = seededRandom(seed);
  const values = new Float32Array(layout.size);
  for (const { name, shape, offset, size } of layout.slices) {
    if (name.startsWith("lora_a.")) {
      const bound = 1 / Math.sqrt(shape[1] as number);
      for (let i = 0; i < size; i++) values[offset + i] = (2 * random() - 1) * bound;
    } else if (name === "comp_embeddings") {
      writeMeanEmbeddings(
        config.vocabSize,
        shape as [number, number],
        values.subarray(offset, offset + size),
        vocabularyRow,
      );
    } else if (name === "summary_log_gain" && finalNorm !== undefined) {
      const usual = Math.sqrt(meanSquareOfRows(config.vocabSize, vocabularyRow) / meanSquare(finalNorm));
      values.fill(Math.log(usual), offset, offset + size);
    }
  }
  return values;
}

function meanSquare(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value * value, 0) / values.length;
}

function meanSquareOfRows(vocabSize: number, vocabularyRow: (id: number) => Float32Array): number {
  let sum = 0;
  for (let id = 0; id < vocabSize; id++) sum += meanSquare(vocabularyRow(id));
  return sum / vocabSize;
}

function writeMeanEmbeddings(
  vocabSize: number,
  [count, hiddenSize]: readonly [number, number],
  target: Float32Array,
  vocabularyRow: (id: number) => Float32Array,
): void {
  const sums = new Float64Array(count * hiddenSize);
  for (let id = 0; id < vocabSize; id++) {
    const row = vocabularyRow(id);
    const base = (id % count) * hiddenSize;
    for (let i = 0; i < hiddenSize; i++) sums[base + i] = (sums[base + i] as number) + (row[i] as number);
  }
  for (let k = 0; k < count; k++) {
    const rows = Math.ceil((vocabSize - k) / count);
    for (let i = 0; i < hiddenSize; i++) target[k * hiddenSize + i] = (sums[k * hiddenSize + i] as number) / rows;
  }
}
