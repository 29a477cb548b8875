/** @file The files that `precis inspect` writes. */
import type { Memory } from "../../memory/memory.js";
import type { ForwardOutput } from "../../runtime/protocol.js";
import { writeFileAtomic } from "../../weights/files.js";
import { writeSafetensors, type TensorData } from "../../weights/safetensors.js";

/** Writes tensor `logits` [tokens, vocab]. */
export async function writeLogits(file: string, { logits, tokens, vocabSize }: ForwardOutput): Promise<void> {
  await writeSafetensors(file, { logits: { dtype: "float32", shape: [tokens, vocabSize], data: logits } });
}

/** Writes `keys.L` and `values.L` [kvHeads, slots, headDim] of every layer; metadata holds positions and kinds. */
export async function writeMemory(file: string, memory: Memory): Promise<void> {
  const { kvHeads, headDim, keys, values, positions, kinds } = await memory.rows();
  const shape = [kvHeads, positions.length, headDim];
  const tensors: Record<string, TensorData> = {};
  for (const [layer, data] of keys.entries()) tensors[`keys.${layer}`] = { dtype: "float32", shape, data };
  for (const [layer, data] of values.entries()) tensors[`values.${layer}`] = { dtype: "float32", shape, data };
  await writeSafetensors(file, tensors, {
    method: memory.method,
    positions: JSON.stringify(positions),
    kinds: JSON.stringify(kinds),
  });
}

/** Sums up the negative log-likelihood of each token; `perplexity` is null without tokens. */
export function summarizeNll(nll: Float32Array): { tokens: number; perplexity: number | null } {
  const total = nll.reduce((sum, value) => sum + value, 0);
  return { tokens: nll.length, perplexity: nll.length === 0 ? null : Math.exp(total / nll.length) };
}

/** Writes tensor `nll` if the name ends in .safetensors, else JSON `{nll, perplexity, tokens}`. */
export async function writeNll(file: string, nll: Float32Array): Promise<void> {
  if (file.endsWith(".safetensors")) {
    await writeSafetensors(file, { nll: { dtype: "float32", shape: [nll.length], data: nll } });
    return;
  }
  const json = JSON.stringify({ nll: [...nll], ...summarizeNll(nll) });
  await writeFileAtomic(file, `${json}\n`);
}
