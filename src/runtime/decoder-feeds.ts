/** @file The engine inputs of one run: cached rows, embeddings, positions, attention bias, adapter, and who gets logits. */
import { KvStore, type KvShape } from "../cache/kv-store.js";
import type { DecoderConfig } from "../models/config.js";
import { DECODER_IO, layerTypesOf, type LoraTarget } from "../models/decoder-io.js";
import { projectionSize } from "../models/projections.js";
import { rotaryTable } from "../models/rotary.js";
import { attentionBias } from "./attention-bias.js";
import type { EmbeddingTable } from "./embedding-table.js";
import { floatTensor, integerTensor, type Feeds } from "./engine-session.js";
import type { LoadedAdapter } from "./loaded-adapter.js";
import { pickedTokens, type Picks, type SequenceInput } from "./sequence-input.js";

/** What of a model its inputs depend on. */
export interface FeedParts {
  config: DecoderConfig;
  shape: KvShape;
  embeddings: EmbeddingTable;
}

/** One run. */
export interface Pass {
  batch: readonly SequenceInput[];
  /** Tokens of the longest sequence; the others are padded. */
  seq: number;
  /** The tokens that get logits, of each sequence. */
  picks: readonly Picks[];
  adapter: LoadedAdapter | undefined;
  /** Projections that the graph has adapter inputs for. */
  loraTargets: readonly LoraTarget[];
  /** [batch, seq, seq] */
  averaging: Float32Array | undefined;
}

/** All inputs of a run. */
export function decoderFeeds(parts: FeedParts, pass: Pass): Feeds {
  const feeds: Feeds = {};
  const store = feedPast(parts.shape, pass.batch, feeds);
  feedTokens(pass, parts, feeds);
  feedBias(pass, parts.config, store.capacity, feeds);
  feedAdapter(pass, parts.config, feeds);
  feeds[DECODER_IO.logitRows] = integerTensor(
    pass.batch.flatMap((input, index) =>
      pickedTokens(input, pass.picks[index] as Picks).map((token) => index * pass.seq + token),
    ),
  );
  return feeds;
}

/** The rows of the batch as engine inputs, in place where they lie together in one store. */
function feedPast(shape: KvShape, batch: readonly SequenceInput[], feeds: Feeds): KvStore {
  const first = (batch[0] as SequenceInput).past;
  if (batch.length === 1) first.settle();
  const together = batch.every(({ past }, index) => past.store === first.store && past.index === first.index + index);
  const store = together
    ? first.store
    : new KvStore(shape, batch.length, Math.max(...batch.map(({ past }) => past.length)));
  if (!together) batch.forEach(({ past }, index) => store.copyRow(index, past.store, past.index, past.length));
  const { kvHeads, headDim, layers } = shape;
  const start = store.offset(together ? first.index : 0, 0, 0);
  const dims = [batch.length, kvHeads, store.capacity, headDim];
  const end = start + batch.length * kvHeads * store.capacity * headDim;
  for (let layer = 0; layer < layers; layer++) {
    feeds[DECODER_IO.pastKeys(layer)] = floatTensor((store.keys[layer] as Float32Array).subarray(start, end), dims);
    feeds[DECODER_IO.pastValues(layer)] = floatTensor((store.values[layer] as Float32Array).subarray(start, end), dims);
  }
  return store;
}

function feedTokens(
  { batch, seq, adapter, averaging }: Pass,
  { config, embeddings: table }: FeedParts,
  feeds: Feeds,
): void {
  const { hiddenSize } = config;
  const embeddings = new Float32Array(batch.length * seq * hiddenSize);
  const positions = new Float64Array(batch.length * seq);
  batch.forEach((input, index) => {
    const extra = input.embeddings ?? adapter?.compEmbeddings;
    table.write(input.ids, embeddings, index * seq * hiddenSize, extra);
    positions.set(input.positions, index * seq);
  });
  feeds[DECODER_IO.embeddings] = floatTensor(embeddings, [batch.length, seq, hiddenSize]);
  for (const type of layerTypesOf(config)) {
    const rotary = config.rotary[type];
    const angles = rotaryTable(rotary, positions);
    const dims = [batch.length, seq, rotary.inverseFrequencies.length];
    feeds[DECODER_IO.rotaryCos(type)] = floatTensor(angles.cos, dims);
    feeds[DECODER_IO.rotarySin(type)] = floatTensor(angles.sin, dims);
  }
  if (averaging !== undefined) {
    feeds[DECODER_IO.averaging] = floatTensor(averaging, [batch.length, seq, seq]);
  }
}

function feedBias({ batch, seq }: Pass, config: DecoderConfig, capacity: number, feeds: Feeds): void {
  const rows = batch.map(({ past, positions, visible }) => ({
    pastPositions: past.positions,
    pastKinds: past.kinds,
    positions,
    visible,
  }));
  for (const type of layerTypesOf(config)) {
    const bias = attentionBias(rows, seq, capacity, type === "sliding" ? config.slidingWindow : undefined);
    feeds[DECODER_IO.attentionBias(type)] = floatTensor(bias, [batch.length, 1, seq, capacity + seq]);
  }
}

function feedAdapter({ batch, seq, adapter, loraTargets }: Pass, config: DecoderConfig, feeds: Feeds): void {
  if (loraTargets.length === 0) return;
  const active = adapter !== undefined && batch.some((input) => input.gate?.some((gate) => gate !== 0) ?? false);
  const gates = new Float32Array(batch.length * seq);
  batch.forEach((input, index) => gates.set(input.gate ?? [], index * seq));
  feeds[DECODER_IO.gate] = floatTensor(gates, [batch.length, seq, 1]);
  for (let layer = 0; layer < config.layerCount; layer++) {
    for (const target of loraTargets) {
      const pair = active ? adapter.tensors(layer, target) : undefined;
      const [inFeatures, outFeatures] = projectionSize(config, target);
      // A rank of zero costs nothing and adds nothing.
      feeds[DECODER_IO.loraA(layer, target)] = pair?.a ?? floatTensor(new Float32Array(0), [0, inFeatures]);
      feeds[DECODER_IO.loraB(layer, target)] = pair?.b ?? floatTensor(new Float32Array(0), [outFeatures, 0]);
    }
  }
}
