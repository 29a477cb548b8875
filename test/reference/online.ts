/** @file Compressed Context Memory step by step with an explicit cache: the oracle of every memory and parallel pass. */

import { readDecoderConfig } from "./decoder-config.js";
import { decode, type DecodeInput, type DecodeOutput, type DecoderModel, type LayerCache } from "./decoder.js";
import { joinRows, sliceRows } from "./kernels.js";
import type { OracleMode } from "./mask-oracle.js";

/** Rows [heads, rows, size] from `start` on in `slots` nearly equal runs, each replaced by its mean. */
function poolRows(x: Float64Array, heads: number, size: number, start: number, slots: number): Float64Array {
  const rows = x.length / (heads * size);
  const tokens = rows - start;
  const count = Math.min(slots, tokens);
  const pooled = new Float64Array(heads * count * size);
  for (let head = 0; head < heads; head++) {
    for (let slot = 0; slot < count; slot++) {
      const [from, to] = [slot, slot + 1].map((bound) => start + Math.floor((bound * tokens) / count));
      for (let row = from; row < to; row++) {
        for (let i = 0; i < size; i++) {
          pooled[(head * count + slot) * size + i] += x[(head * rows + row) * size + i] / (to - from);
        }
      }
    }
  }
  return pooled;
}

/** What {@link runOnline} returns. */
export interface OnlineRun {
  /** Memory after each time step, one cache per layer; with a sink its row comes first. */
  memories: LayerCache[][];
  /** Logits [input, vocab] given the last memory. */
  logits: Float64Array;
}

/** `change` of the keys and the values of every layer. */
function mapLayers(
  layers: readonly LayerCache[],
  change: (rows: Float64Array, layer: number, name: "keys" | "values") => Float64Array,
): LayerCache[] {
  return layers.map(({ keys, values }, l) => ({ keys: change(keys, l, "keys"), values: change(values, l, "values") }));
}

/** The memory after time step `step` (from 1) from the one before and the COMP rows of this step; no sink in either. */
function update(
  memory: LayerCache[],
  fresh: LayerCache[],
  step: number,
  mode: OracleMode,
  heads: number,
): LayerCache[] {
  if (step === 1) return fresh;
  if (mode.method !== "merge") return mapLayers(memory, (x, l, name) => joinRows(x, fresh[l][name], heads));
  const weight = mode.decay ?? 1 / step;
  return mapLayers(memory, (x, l, name) => x.map((old, i) => (1 - weight) * old + weight * fresh[l][name][i]));
}

/**
 * Compresses `chunks` one by one and runs `input` on the memory. There are no SUM tokens: merging acts on the cache.
 * Compressive pools the text's own rows to as many as there would be COMP tokens. For gist all chunks are one time step, for "none" they are dropped, and "full" keeps all rows (no COMP tokens).
 * With a sink the first token of the first chunk, which should be BOS, is kept.
 */
export function runOnline(
  model: DecoderModel,
  adapter: DecodeInput["adapter"],
  sample: { chunks: number[][]; input: number[] },
  mode: OracleMode,
): OnlineRun {
  const { kvHeads, headDim } = readDecoderConfig(model.config);
  const full = mode.method === "full";
  const compressive = mode.method === "compressive";
  const comp = full || compressive ? [] : Array.from({ length: mode.compTokens }, (_, k) => mode.vocabSize + k);
  const chunks = { gist: [sample.chunks.flat()], none: [] as number[][] }[mode.method as string] ?? sample.chunks;
  let text = 0;
  let sink: LayerCache[] | undefined;
  let memory: LayerCache[] | undefined;

  const withSink = (rows: LayerCache[] | undefined): LayerCache[] | undefined => {
    if (sink === undefined || rows === undefined) return rows ?? sink;
    return mapLayers(rows, (x, l, name) => joinRows(sink?.[l][name], x, kvHeads));
  };
  // COMP tokens count on from the text, but do not add to it.
  const forward = (ids: number[], past: LayerCache[] | undefined): DecodeOutput =>
    decode(model, { inputIds: ids, positionIds: ids.map((_, i) => text + i), adapter, past });

  const memories = chunks.map((chunk, t) => {
    const visible = full || mode.recursive ? memory : undefined;
    const { cache } = forward([...chunk, ...comp], withSink(visible));
    if (mode.sink && t === 0 && !full) sink = mapLayers(cache, (x) => sliceRows(x, kvHeads, headDim, 0, 1));
    const kept = mapLayers(cache, (x) => {
      if (compressive) return poolRows(x, kvHeads, headDim, mode.sink && t === 0 ? 1 : 0, mode.compTokens);
      return sliceRows(x, kvHeads, headDim, full ? 0 : chunk.length);
    });
    memory = update(memory ?? [], kept, t + 1, mode, kvHeads);
    text += chunk.length;
    return withSink(memory) as LayerCache[];
  });
  return { memories, logits: forward(sample.input, memories.at(-1)).logits };
}
