/**
 * @file A second form of block-quantised matrices, for long inputs: one int8 scale per output column, laid out as the
 * engine's fast product of many rows wants it. Made from the block-quantised values, so both forms are the same weights
 * but for the rounding of the second one.
 */
import { existsSync } from "node:fs";
import { PrecisError } from "../errors.js";
import { throwIfAborted } from "./files.js";
import type { DeriveOptions } from "./derived.js";
import type { QuantizedCheckpoint } from "./quantize.js";
import {
  readSafetensorsHeader,
  readTensor,
  readTensorBytes,
  SafetensorsWriter,
  type TensorEntry,
  type TensorSpec,
} from "./safetensors.js";

/** Largest magnitude of a quantised weight. Older processors add pairs of products in 16 bits, which 8-bit weights overflow. */
const LIMIT = 63;
/** Raise it when the content changes for the same input. */
const VERSION = "v1";

/** One matrix of the copy: where its blocks are, and its size. */
interface Matrix {
  name: string;
  blocks: TensorEntry;
  scales: TensorEntry;
  outFeatures: number;
  inFeatures: number;
}

function specsOf({ name, outFeatures, inFeatures }: Matrix): TensorSpec[] {
  return [
    { name: `${name}.columns`, dtype: "int8", shape: [inFeatures, outFeatures] },
    { name: `${name}.column_scales`, dtype: "float32", shape: [outFeatures] },
  ];
}

/** Reads a matrix back to float32 and quantises it per column. */
async function quantizeColumns(
  { blocks, scales, outFeatures, inFeatures }: Matrix,
  blockSize: number,
): Promise<{ columns: Int8Array; columnScales: Float32Array }> {
  const packed = await readTensorBytes(blocks);
  const blockScales = await readTensor(scales);
  const perRow = Math.ceil(inFeatures / blockSize);
  const columns = new Int8Array(inFeatures * outFeatures);
  const columnScales = new Float32Array(outFeatures);
  const row = new Float32Array(perRow * blockSize);
  for (let out = 0; out < outFeatures; out++) {
    for (let i = 0; i < row.length; i++) {
      const byte = packed[(out * row.length + i) >> 1] as number;
      const value = (i & 1) === 0 ? byte & 15 : byte >> 4;
      row[i] = (value - 8) * (blockScales[out * perRow + Math.floor(i / blockSize)] as number);
    }
    const largest = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const scale = largest === 0 ? 1 : largest / LIMIT;
    columnScales[out] = scale;
    for (let i = 0; i < inFeatures; i++) columns[i * outFeatures + out] = Math.round((row[i] as number) / scale);
  }
  return { columns, columnScales };
}

/**
 * The column form of the named matrices of an int4 copy, made once and kept beside it.
 * @param matrices names and input sizes, as the block form pads rows
 * @throws OPTION_INVALID for a copy of other bits; ABORTED
 */
export async function columnCopy(
  copy: QuantizedCheckpoint,
  matrices: readonly { name: string; inFeatures: number }[],
  { signal, onProgress }: Pick<DeriveOptions, "signal" | "onProgress"> = {},
): Promise<ReadonlyMap<string, TensorEntry>> {
  if (copy.bits !== 4)
    throw new PrecisError("OPTION_INVALID", `Only int4 copies have a column form, not int${copy.bits}.`);
  const file = copy.file.replace(/\.safetensors$/, `-columns-${VERSION}.safetensors`);
  const known = existsSync(file) ? await readSafetensorsHeader(file).catch(() => undefined) : undefined;
  const planned = matrices.map(({ name, inFeatures }): Matrix => {
    const blocks = copy.tensors.get(`${name}.blocks`);
    const scales = copy.tensors.get(`${name}.scales`);
    if (blocks !== undefined && scales !== undefined) {
      return { name, blocks, scales, inFeatures, outFeatures: Number(blocks.shape[0]) };
    }
    throw new PrecisError("WEIGHTS_INVALID", `The quantised copy has no matrix "${name}".`, { value: name });
  });
  if (known !== undefined && planned.every(({ name }) => known.tensors.has(`${name}.columns`))) return known.tensors;
  await using writer = await SafetensorsWriter.create(file, planned.flatMap(specsOf), { version: VERSION });
  for (const [done, matrix] of planned.entries()) {
    throwIfAborted(signal, "Converting the weights");
    onProgress?.({ tensor: matrix.name, done, total: planned.length });
    const { columns, columnScales } = await quantizeColumns(matrix, copy.blockSize);
    await writer.write(`${matrix.name}.columns`, columns);
    await writer.write(`${matrix.name}.column_scales`, columnScales);
  }
  return await writer.finish();
}
