/** @file Recurrent summaries step by step, every segment read from its first token on: no cache, so nothing to get wrong. */

import { decode, type DecodeOutput, type DecoderModel } from "./decoder.js";
import type { ReferenceAdapter } from "./random-model.js";

/** An adapter whose LoRA acts at every token, with summary tokens and their gain. */
export type RecurrentAdapter = Pick<ReferenceAdapter, "scale" | "r" | "weights" | "compEmbeddings" | "summaryGain">;

/** Reads one segment: soft prompt, text and, if `summarize`, the summary tokens, at consecutive positions. */
function read(
  model: DecoderModel,
  adapter: RecurrentAdapter,
  prompt: readonly number[],
  text: readonly number[],
  summarize: boolean,
): DecodeOutput {
  const { vocab_size: vocab, hidden_size: hidden } = model.config as { vocab_size: number; hidden_size: number };
  const slots = prompt.length / hidden;
  const tokens = summarize ? adapter.compEmbeddings.length / hidden : 0;
  const soft = prompt.map((value, i) => value * (adapter.summaryGain as Float32Array)[i % hidden]);
  const rows = Float32Array.from([...soft, ...adapter.compEmbeddings]);
  const fresh = (count: number, first: number): number[] => Array.from({ length: count }, (_, k) => vocab + first + k);
  const inputIds = [...fresh(slots, 0), ...text, ...fresh(tokens, slots)];
  return decode(model, { inputIds, gate: inputIds.map(() => 1), adapter: { ...adapter, compEmbeddings: rows } });
}

/** The summaries [vectors · hidden], before their gain, after `steps`; `prompt` are those before them. */
export function summaries(
  model: DecoderModel,
  adapter: RecurrentAdapter,
  steps: readonly (readonly number[])[],
  accumulate: boolean,
  prompt: readonly number[] = [],
): readonly number[] {
  const { length } = adapter.compEmbeddings;
  let held = prompt;
  for (const step of steps) {
    const last = read(model, adapter, held, step, true).hidden.at(-1) as Float64Array;
    const fresh = last.subarray(last.length - length);
    held = accumulate ? [...held, ...fresh] : [...fresh];
  }
  return held;
}

/** Logits [input, vocab] of an input behind summaries. */
export function answerLogits(
  model: DecoderModel,
  adapter: RecurrentAdapter,
  prompt: readonly number[],
  input: readonly number[],
): Float64Array {
  const { vocab_size: vocab } = model.config as { vocab_size: number };
  const { logits } = read(model, adapter, prompt, input, false);
  return logits.subarray(logits.length - input.length * vocab);
}

/** Logits [input, vocab] after `steps`. */
export function runRecurrent(
  model: DecoderModel,
  adapter: RecurrentAdapter,
  steps: readonly (readonly number[])[],
  input: readonly number[],
  accumulate: boolean,
): Float64Array {
  return answerLogits(model, adapter, summaries(model, adapter, steps, accumulate), input);
}
