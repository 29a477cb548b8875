/** @file The embeddings of an adapter's COMP tokens, in a file beside its LoRA matrices. */
import { access, rm } from "node:fs/promises";
import { join } from "node:path";
import { invalidAdapter, refuseNonFinite, wrongHiddenSize } from "./adapter-errors.js";
import { readSafetensorsHeader, readTensor, writeSafetensors, type TensorData } from "./safetensors.js";

/** Embeddings of the COMP tokens. */
export interface CompEmbeddings {
  /** [count, hiddenSize] */
  data: Float32Array;
  count: number;
  hiddenSize: number;
  /** [hiddenSize], the factor on summary vectors as they are read; only for methods that pass summaries on. */
  summaryGain?: Float32Array;
}

const COMP_FILE = "comp_embeddings.safetensors";
const COMP_TENSOR = "comp_embeddings";
const GAIN_TENSOR = "summary_gain";

/**
 * The embeddings in an adapter's folder; undefined where there are none.
 * @param compTokens number of COMP tokens that the adapter says to have
 * @throws ADAPTER_INVALID for another number of them, or damaged ones; ADAPTER_MISMATCH for another hidden size
 */
export async function readCompEmbeddings(
  folder: string,
  compTokens: number,
  hiddenSize: number,
): Promise<CompEmbeddings | undefined> {
  const file = join(folder, COMP_FILE);
  const exists = await access(file).then(
    () => true,
    () => false,
  );
  const tensors = exists ? (await readSafetensorsHeader(file)).tensors : undefined;
  const [entry, gain] = [tensors?.get(COMP_TENSOR), tensors?.get(GAIN_TENSOR)];
  if (exists && entry?.shape.length !== 2) {
    throw invalidAdapter(folder, `has a ${COMP_FILE} without a matrix named "${COMP_TENSOR}"`);
  }
  const [count = 0, size = 0] = entry?.shape ?? [];
  const summaryGain = gain && { summaryGain: await readTensor(gain) };
  const embeddings = entry && { data: await readTensor(entry), count, hiddenSize: size, ...summaryGain };
  checkCompEmbeddings(embeddings, compTokens, folder);
  if (embeddings !== undefined && size !== hiddenSize) throw wrongHiddenSize(folder, COMP_FILE, size, hiddenSize);
  return embeddings;
}

/**
 * Writes embeddings, checked before, so that {@link readCompEmbeddings} gives them back. The file is replaced whole;
 * without embeddings it is removed.
 */
export async function writeCompEmbeddings(folder: string, embeddings: CompEmbeddings | undefined): Promise<void> {
  if (embeddings === undefined) {
    await rm(join(folder, COMP_FILE), { force: true });
    return;
  }
  const { data, count, hiddenSize, summaryGain } = embeddings;
  const rows: Record<string, TensorData> = {
    [COMP_TENSOR]: { dtype: "float32", shape: [count, hiddenSize], data },
    ...(summaryGain && { [GAIN_TENSOR]: { dtype: "float32", shape: [hiddenSize], data: summaryGain } }),
  };
  await writeSafetensors(join(folder, COMP_FILE), rows, { format: "pt" });
}

/**
 * Checks embeddings that are to be used or written.
 * @throws ADAPTER_INVALID for another number of them than `compTokens`, sizes that contradict each other, or NaN
 */
export function checkCompEmbeddings(embeddings: CompEmbeddings | undefined, compTokens: number, folder: string): void {
  const count = embeddings?.count ?? 0;
  if (count !== compTokens) {
    const nextStep = `Restore ${COMP_FILE}, or train it again.`;
    throw invalidAdapter(
      folder,
      `has embeddings for ${count} COMP tokens, but precis.compTokens is ${compTokens}`,
      nextStep,
    );
  }
  if (embeddings === undefined) return;
  if (embeddings.data.length !== count * embeddings.hiddenSize) {
    throw invalidAdapter(
      folder,
      `has ${embeddings.data.length} values for ${count} COMP tokens of ${embeddings.hiddenSize}`,
    );
  }
  refuseNonFinite(embeddings.data, COMP_TENSOR, folder);
  const { summaryGain, hiddenSize } = embeddings;
  if (summaryGain === undefined) return;
  if (summaryGain.length !== hiddenSize) {
    throw invalidAdapter(folder, `has a ${GAIN_TENSOR} of ${summaryGain.length} values, not ${hiddenSize}`);
  }
  refuseNonFinite(summaryGain, GAIN_TENSOR, folder);
}
