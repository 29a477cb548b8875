/** @file How alike two texts are to the model itself: the angle between the means of its hidden states. */
import type { LanguageModel } from "../../runtime/model.js";

/** Cosine of the angle between two vectors; 0 if one of them is zero. */
export function cosine(a: Float32Array, b: Float32Array): number {
  let [product, squareA, squareB] = [0, 0, 0];
  for (const [index, value] of a.entries()) {
    const other = b[index] as number;
    product += value * other;
    squareA += value * value;
    squareB += other * other;
  }
  return squareA === 0 || squareB === 0 ? 0 : product / Math.sqrt(squareA * squareB);
}

/**
 * The mean over a text's tokens of what the last layer and norm make of them, [hidden]; the text is read alone, by the
 * model without adapter and with full attention. Not an embedder: all texts of a language come out rather alike, so only
 * differences between values mean anything.
 * @param begin read before the text and left out of the mean, such as a beginning-of-text token
 */
export async function meanHiddenState(
  model: LanguageModel,
  ids: readonly number[],
  begin: readonly number[],
  signal?: AbortSignal,
): Promise<Float32Array> {
  const { layerCount, hiddenSize } = model.info;
  const tap = `hidden.${layerCount}`;
  await using memory = await model.createMemory({ method: "full" });
  const { taps } = await memory.forward([...begin, ...ids], { logits: "last", taps: [tap], signal });
  const states = (taps[tap] as { data: Float32Array }).data;
  const mean = new Float32Array(hiddenSize);
  for (let token = begin.length; token < begin.length + ids.length; token++) {
    for (let i = 0; i < hiddenSize; i++) {
      mean[i] = (mean[i] as number) + (states[token * hiddenSize + i] as number) / ids.length;
    }
  }
  return mean;
}
