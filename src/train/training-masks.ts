/** @file Attention masks and averages of a training graph: what a batch says of them, and what the decoder is given. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import type { DecoderConfig } from "../models/config.js";
import { layerTypesOf, type DecoderValues } from "../models/decoder-io.js";
import { floatTensor, type Feeds } from "../runtime/engine-session.js";
import { AVERAGING_PARTS, noAveraging } from "./averaging-groups.js";
import { causalBlocks } from "./causal-blocks.js";
import { asBias, averagesFromGroups, maskFromBits, withinWindow } from "./mask-graph.js";
import { packedWords } from "./packed-mask.js";
import type { PaddedBatch } from "./padded-batch.js";

/** Names of the inputs. */
export const MASK_IO = {
  /** [batch, seq, words], packed as in `packed-mask.ts`. */
  attend: "attend_bits",
  /** [batch, seq], where layers have a sliding window. */
  positions: "mask_positions",
  /** [batch, seq], 1 at tokens that a window hides; 0 at sinks and new tokens. */
  bound: "window_bound",
  /** [parts, batch, seq], where keys and values are averaged. */
  averaging: "averaging_groups",
} as const;

/** Sizes that masks depend on. */
export interface MaskSpec {
  batch: number;
  seq: number;
  averaging: boolean;
  /** Causal blocks that attention cuts rows into; default by their length, see `causal-blocks.ts`. */
  attentionBlocks?: number;
}

/**
 * Declares the inputs, and computes the bias of each type of layer, cut into causal blocks, and the averaging matrix once
 * for all layers. Masks never let a token see a later one of its row.
 */
export function emitMasks(
  graph: GraphBuilder,
  config: DecoderConfig,
  { batch, seq, averaging, attentionBlocks }: MaskSpec,
): Pick<DecoderValues, "attentionBias" | "averaging"> {
  const tokens = (name: string): Value => graph.input(name, "float32", [batch, seq]);
  const bits = graph.input(MASK_IO.attend, "float32", [batch, seq, packedWords(seq)]);
  const window = layerTypesOf(config).includes("sliding") ? config.slidingWindow : undefined;
  const sliding =
    window === undefined ? undefined : { positions: tokens(MASK_IO.positions), bound: tokens(MASK_IO.bound), window };
  const masks = causalBlocks(seq, attentionBlocks).map((block) => {
    const full = maskFromBits(graph, bits, block);
    return { full, sliding: sliding === undefined ? full : withinWindow(graph, full, block, sliding) };
  });
  return {
    attentionBias: (type) => masks.map((mask) => asBias(graph, mask[type])),
    ...(averaging
      ? {
          averaging: averagesFromGroups(
            graph,
            graph.input(MASK_IO.averaging, "float32", [AVERAGING_PARTS.length, batch, seq]),
          ),
        }
      : {}),
  };
}

/** What a batch says of its masks. */
export function maskFeeds(
  config: DecoderConfig,
  batch: PaddedBatch,
  { averaging }: Pick<MaskSpec, "averaging">,
): Feeds {
  const { seq, attendBits, positionIds, inputIds, sinkMask } = batch;
  const shape = [batch.batch, seq];
  const feeds: Feeds = { [MASK_IO.attend]: floatTensor(attendBits, [...shape, packedWords(seq)]) };
  if (layerTypesOf(config).includes("sliding")) {
    const isBound = (id: number, token: number): number => (id < config.vocabSize && sinkMask[token] === 0 ? 1 : 0);
    feeds[MASK_IO.positions] = floatTensor(Float32Array.from(positionIds), shape);
    feeds[MASK_IO.bound] = floatTensor(Float32Array.from(inputIds, isBound), shape);
  }
  if (averaging) {
    const groups = batch.averaging ?? noAveraging(inputIds.length);
    const flat = new Float32Array(AVERAGING_PARTS.length * inputIds.length);
    AVERAGING_PARTS.forEach((part, index) => flat.set(groups[part], index * inputIds.length));
    feeds[MASK_IO.averaging] = floatTensor(flat, [AVERAGING_PARTS.length, ...shape]);
  }
  return feeds;
}
