/** @file Window methods in float64, one token at a time with an explicit cache: slow and plain on purpose. */

import { readDecoderConfig } from "../reference/decoder-config.js";
import { decode, type DecodeInput, type DecoderModel, type LayerCache } from "../reference/decoder.js";
import { joinRows, rotate, sliceRows } from "../reference/kernels.js";

/** Logits [ids, vocab] of a pass in which each token sees the `window` latest ones, itself included. */
export function runSlidingWindow(model: DecoderModel, ids: readonly number[], window: number): Float64Array {
  const { length } = ids;
  const attend = Uint8Array.from({ length: length * length }, (_, at) => {
    const [row, column] = [Math.floor(at / length), at % length];
    return column <= row && row - column < window ? 1 : 0;
  });
  return decode(model, { inputIds: ids, attend }).logits;
}

/** Options of both streaming methods, named as the methods name them. */
export interface StreamOptions {
  window: number;
  sink: number;
  /** Tokens that leave at once: dropped, or compressed where there is a `memory`. */
  leave: number;
  /** Most compressed slots; Infinity for merging, which holds as many as there are COMP tokens. */
  memory?: number;
  merge?: boolean;
}

/** A stream's cache: rows in slot order, keys rotated to their slot. */
export class StreamReference {
  readonly #model: DecoderModel;
  readonly #adapter: DecodeInput["adapter"];
  readonly #options: StreamOptions;
  readonly #heads: number;
  readonly #size: number;
  readonly #frequencies: Float64Array;
  #cache: LayerCache[] = [];
  /** Slots, and how many of them after the sinks are compressed ones. */
  length = 0;
  #compressed = 0;
  #compressions = 0;

  constructor(model: DecoderModel, adapter: DecodeInput["adapter"], options: StreamOptions) {
    const config = readDecoderConfig(model.config);
    this.#model = model;
    this.#adapter = adapter;
    this.#options = options;
    this.#heads = config.kvHeads;
    this.#size = config.headDim;
    this.#frequencies = config.inverseFrequencies;
  }

  /** Takes in a token. @returns its logits */
  feed(id: number): Float64Array {
    const output = this.#run([id], this.#cache, this.length);
    this.#cache = this.#join(this.#cache, output.cache);
    this.length += 1;
    if (this.length > this.#options.window) this.#evict();
    return output.logits;
  }

  #run(ids: number[], past: LayerCache[], position: number): ReturnType<typeof decode> {
    const positionIds = ids.map((_, index) => position + index);
    return decode(this.#model, {
      inputIds: ids,
      positionIds,
      adapter: this.#adapter,
      ...(past.length > 0 ? { past } : {}),
    });
  }

  #evict(): void {
    const { sink, leave, memory, merge } = this.#options;
    if (memory === undefined) {
      this.#cache = this.#join(this.#slice(this.#cache, 0, sink), this.#moved(sink + leave, this.length, sink));
      this.length -= leave;
      return;
    }
    const comp = this.#adapter!.compEmbeddings.length / this.#model.weights.get("model.norm.weight")!.length;
    const vocabSize = readDecoderConfig(this.#model.config).vocabSize;
    const end = Math.min(sink + this.#compressed + leave, this.length);
    const source = this.#slice(this.#cache, 0, end);
    const compIds = Array.from({ length: comp }, (_, k) => vocabSize + k);
    const fresh = this.#run(compIds, source, end).cache;
    this.#compressions += 1;
    let held: LayerCache[];
    if (merge === true && this.#compressions > 1) {
      const old = this.#slice(this.#cache, sink, sink + comp);
      const weight = 1 / this.#compressions;
      const placed = this.#rotated(fresh, sink - end);
      held = old.map((layer, l) => ({
        keys: layer.keys.map((value, i) => (1 - weight) * value + weight * placed[l].keys[i]),
        values: layer.values.map((value, i) => (1 - weight) * value + weight * placed[l].values[i]),
      }));
    } else {
      const dropped = Math.max(0, this.#compressed + comp - memory);
      const kept = this.#moved(sink + dropped, sink + this.#compressed, sink);
      held = this.#join(kept, this.#rotated(fresh, sink + this.#compressed - dropped - end));
    }
    this.#compressed = held[0].values.length / this.#heads / this.#size;
    const text = this.#moved(end, this.length, sink + this.#compressed);
    this.length = sink + this.#compressed + this.length - end;
    this.#cache = this.#join(this.#join(this.#slice(this.#cache, 0, sink), held), text);
  }

  /** Slots [start, end), turned to begin at slot `to`. */
  #moved(start: number, end: number, to: number): LayerCache[] {
    return this.#rotated(this.#slice(this.#cache, start, end), to - start);
  }

  #rotated(layers: readonly LayerCache[], delta: number): LayerCache[] {
    return layers.map(({ keys, values }) => {
      const turned = keys.slice();
      if (turned.length > 0) rotate(turned, [delta], this.#frequencies);
      return { keys: turned, values };
    });
  }

  #slice(layers: readonly LayerCache[], start: number, end: number): LayerCache[] {
    const cut = (rows: Float64Array): Float64Array => sliceRows(rows, this.#heads, this.#size, start, end);
    return layers.map(({ keys, values }) => ({ keys: cut(keys), values: cut(values) }));
  }

  #join(first: readonly LayerCache[], second: readonly LayerCache[]): LayerCache[] {
    return second.map(({ keys, values }, l) => ({
      keys: joinRows(first[l]?.keys, keys, this.#heads),
      values: joinRows(first[l]?.values, values, this.#heads),
    }));
  }
}
