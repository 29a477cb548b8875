/** @file Quantised and half-precision copies of a checkpoint, in the cache. */
import { createHash } from "node:crypto";
import { PrecisError } from "../errors.js";
import { BYTES_PER_ELEMENT, floatToHalf, toFloat32, type DType } from "../tensor/dtype.js";
import { fingerprintCheckpoint, type Checkpoint } from "./checkpoint.js";
import { derive, requireTensor, type DeriveOptions, type DeriveStep } from "./derived.js";
import { canonicalJson } from "./files.js";
import { blocksPerRow, checkBlockFormat, quantizeBlocks, type BlockFormat } from "./quantize-blocks.js";
import type { TensorEntry, TensorSpec } from "./safetensors.js";

export { quantizeBlocks, type BlockFormat, type QuantizedBlocks } from "./quantize-blocks.js";
export type { DeriveEvent, DeriveOptions } from "./derived.js";

/** One matrix of a plan. */
export interface PlannedLinear {
  /** Name in the quantised file, such as `model.layers.0.self_attn.qkv_proj.weight`. */
  name: string;
  /** Checkpoint tensors [out, in] whose rows are stacked in this order. */
  parts: readonly string[];
  /** Quantise the transpose [in, out] of a single part, for products with the matrix from its other side. */
  turned?: boolean;
}

/** What a quantised file holds. */
export interface QuantizationPlan {
  /** Matrices to quantise. Each becomes `<name>.blocks` and `<name>.scales`. */
  linears: readonly PlannedLinear[];
  /** Tensors copied as they are stored, such as norms and biases. */
  kept: readonly string[];
}

/** Options of {@link quantizeCheckpoint}. */
export interface QuantizeOptions extends DeriveOptions {
  bits: 4 | 8;
  /** Weights that share a scale. Default 32. */
  blockSize?: number;
}

/** A quantised copy of a checkpoint. */
export interface QuantizedCheckpoint extends BlockFormat {
  /** Absolute path. */
  file: string;
  /**
   * For each linear of the plan `<name>.blocks` (uint8 [out, blocksPerRow, blockSize · bits / 8]) and `<name>.scales`
   * (float32 [out · blocksPerRow]); and the kept tensors.
   */
  tensors: Map<string, TensorEntry>;
}

/** A half-precision copy of a checkpoint. */
export interface ConvertedCheckpoint {
  /** Absolute path. */
  file: string;
  tensors: Map<string, TensorEntry>;
}

/** Bound on the weights in memory at a time; also on how long the event loop waits (a few tens of ms). */
const CHUNK_WEIGHTS = 2 ** 20;
const FLOATS: ReadonlySet<DType> = new Set(["float32", "float16", "bfloat16"]);
/** Part of the cached files' names: raise it when their content changes for the same input. */
const VERSION = "v1";

/**
 * A block-quantised copy of the checkpoint, made once and cached.
 * @throws WEIGHTS_INVALID if a planned tensor is missing, no matrix, or not finite; ABORTED if the signal fires
 */
export async function quantizeCheckpoint(
  checkpoint: Checkpoint,
  plan: QuantizationPlan,
  options: QuantizeOptions,
): Promise<QuantizedCheckpoint> {
  const format: BlockFormat = { bits: options.bits, blockSize: options.blockSize ?? 32 };
  checkBlockFormat(format);
  const linears = plan.linears.map((linear) => planLinear(checkpoint, linear, format));
  const kept = plan.kept.map((name) => requireTensor(checkpoint, name));
  const kind = `int${format.bits}-b${format.blockSize}`;
  const derivation = {
    ...(await identify(checkpoint, kind, { linears: plan.linears, kept: plan.kept })),
    outputs: [...linears.flatMap((linear) => linear.outputs), ...kept],
    steps: [...linears.flatMap((linear) => linear.steps), ...kept.map(copyStep)],
  };
  return { ...(await derive(derivation, options)), ...format };
}

/**
 * A copy of the named tensors in another element type, made once and cached. Integer tensors are copied as stored.
 * @throws WEIGHTS_INVALID if a tensor is missing or has a value that float16 cannot hold; ABORTED if the signal fires
 */
export async function convertCheckpoint(
  checkpoint: Checkpoint,
  names: readonly string[],
  dtype: "float16",
  options: DeriveOptions = {},
): Promise<ConvertedCheckpoint> {
  const sources = names.map((name) => requireTensor(checkpoint, name));
  const isConverted = (source: TensorEntry): boolean => FLOATS.has(source.dtype) && source.dtype !== dtype;
  const derivation = {
    ...(await identify(checkpoint, dtype, names)),
    outputs: sources.map((source) => (isConverted(source) ? { ...source, dtype } : source)),
    steps: sources.map((source) => (isConverted(source) ? halfStep(source) : copyStep(source))),
  };
  return derive(derivation, options);
}

/** File name and metadata of a derived file, from everything that its content depends on. */
async function identify(
  checkpoint: Checkpoint,
  kind: string,
  plan: unknown,
): Promise<{ fileName: string; metadata: Record<string, string> }> {
  const fingerprint = await fingerprintCheckpoint(checkpoint);
  const planHash = createHash("sha256").update(canonicalJson(plan)).digest("hex");
  const fileName = `${fingerprint.slice(0, 16)}-${kind}-${planHash.slice(0, 8)}-${VERSION}.safetensors`;
  return { fileName, metadata: { fingerprint, kind, plan: planHash, version: VERSION } };
}

function planLinear(
  checkpoint: Checkpoint,
  { name, parts, turned = false }: PlannedLinear,
  format: BlockFormat,
): { outputs: TensorSpec[]; steps: DeriveStep[] } {
  const sources = parts.map((part) => requireMatrix(checkpoint, part));
  const inFeatures = sources[0]?.shape[1];
  const odd = sources.find((source) => source.shape[1] !== inFeatures);
  if (inFeatures === undefined || odd !== undefined) {
    const shapes = sources.map((source) => `${source.name} [${source.shape.join(", ")}]`).join(", ");
    throw new PrecisError("WEIGHTS_INVALID", `The rows of "${name}" cannot be stacked from ${shapes || "no parts"}.`);
  }
  const outFeatures = sources.reduce((sum, source) => sum + (source.shape[0] as number), 0);
  if (!turned) {
    return {
      outputs: blockSpecs(name, outFeatures, inFeatures, format),
      steps: sources.map((source) => quantizeStep(source, name, inFeatures, format)),
    };
  }
  const [source, ...others] = sources as [TensorEntry, ...TensorEntry[]];
  if (others.length > 0) throw new PrecisError("WEIGHTS_INVALID", `The stacked matrix "${name}" cannot be turned.`);
  return {
    outputs: blockSpecs(name, inFeatures, outFeatures, format),
    steps: [quantizeTurnedStep(source, name, [outFeatures, inFeatures], format)],
  };
}

/** The tensors of a quantised matrix [rows, columns]. */
function blockSpecs(name: string, rows: number, columns: number, { bits, blockSize }: BlockFormat): TensorSpec[] {
  const perRow = blocksPerRow(columns, blockSize);
  return [
    { name: `${name}.blocks`, dtype: "uint8", shape: [rows, perRow, (blockSize * bits) / 8] },
    { name: `${name}.scales`, dtype: "float32", shape: [rows * perRow] },
  ];
}

function requireMatrix(checkpoint: Checkpoint, name: string): TensorEntry {
  const entry = requireTensor(checkpoint, name);
  if (entry.shape.length === 2 && FLOATS.has(entry.dtype)) return entry;
  const message = `Tensor "${name}" is ${entry.dtype} [${entry.shape.join(", ")}]; only float matrices are quantised.`;
  throw new PrecisError("WEIGHTS_INVALID", message, { value: name });
}

function quantizeStep(source: TensorEntry, name: string, inFeatures: number, format: BlockFormat): DeriveStep {
  const rowBytes = Math.max(1, inFeatures * BYTES_PER_ELEMENT[source.dtype]);
  const rows = Math.max(1, Math.floor(CHUNK_WEIGHTS / Math.max(1, inFeatures)));
  return {
    source,
    chunkBytes: rows * rowBytes,
    convert: (bytes) =>
      quantizeRows(source, name, toFloat32(bytes, source.dtype), [bytes.byteLength / rowBytes, inFeatures], format),
  };
}

/** The same for the transpose, which needs the whole matrix at once. */
function quantizeTurnedStep(
  source: TensorEntry,
  name: string,
  [rows, columns]: readonly [number, number],
  format: BlockFormat,
): DeriveStep {
  return {
    source,
    chunkBytes: Math.max(1, source.length),
    convert(bytes) {
      const weights = toFloat32(bytes, source.dtype);
      const turned = new Float32Array(weights.length);
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          turned[column * rows + row] = weights[row * columns + column] as number;
        }
      }
      return quantizeRows(source, name, turned, [columns, rows], format);
    },
  };
}

function quantizeRows(
  source: TensorEntry,
  name: string,
  weights: Float32Array,
  [rows, columns]: readonly [number, number],
  format: BlockFormat,
): [name: string, data: ArrayBufferView][] {
  try {
    const { blocks, scales } = quantizeBlocks(weights, rows, columns, format);
    return [
      [`${name}.blocks`, blocks],
      [`${name}.scales`, scales],
    ];
  } catch (error) {
    throw notFinite(source, "is NaN or infinite", error);
  }
}

function copyStep(source: TensorEntry): DeriveStep {
  const chunkBytes = CHUNK_WEIGHTS * BYTES_PER_ELEMENT[source.dtype];
  return { source, chunkBytes, convert: (bytes) => [[source.name, bytes]] };
}

function halfStep(source: TensorEntry): DeriveStep {
  return {
    source,
    chunkBytes: CHUNK_WEIGHTS * BYTES_PER_ELEMENT[source.dtype],
    convert(bytes) {
      const values = toFloat32(bytes, source.dtype);
      const halves = new Uint16Array(values.length);
      for (let i = 0; i < values.length; i++) {
        const half = floatToHalf(values[i] as number);
        if ((half & 0x7c00) === 0x7c00) throw notFinite(source, `is ${values[i]}, which float16 cannot hold`);
        halves[i] = half;
      }
      return [[source.name, halves]];
    },
  };
}

function notFinite(source: TensorEntry, problem: string, cause?: unknown): PrecisError {
  const message = `A value of tensor "${source.name}" in ${source.file} ${problem}.`;
  const nextStep = "Download the model again, or use it as it is stored.";
  return new PrecisError("WEIGHTS_INVALID", message, { nextStep, value: source.name, cause });
}
