/**
 * @file Dropout of a LoRA's inputs (Hu et al. 2022; 0.05 in CCM's code), from masks that the graph computes itself.
 *
 * A mask of every token and feature would be as large as the activations, too much to upload. Instead each token gets a
 * number a and each feature a number b, both uniform in [0, 1), and an element is kept where the fractional part of a + b
 * is at least the rate. Each element is then dropped with exactly that probability, and any two elements independently of
 * each other, so sums over features have the mean and variance that independent draws would give them. Additions of
 * float32 are the same everywhere, so a seed gives the same masks on every device. Projections that read one input, such
 * as those of queries, keys and values, share its mask, so that one masked copy of it is held instead of three.
 */
import { SeededRandom } from "../data/random.js";
import type { GraphBuilder, Value } from "../graph/builder.js";
import { add, cast, floor, mul, scale, sub } from "../graph/ops/elementwise.js";
import { gatherRows, reshape, slice } from "../graph/ops/movement.js";
import type { DecoderConfig } from "../models/config.js";
import type { LoraTarget } from "../models/decoder-io.js";
import { projectionSize } from "../models/projections.js";
import { floatTensor, type Feeds } from "../runtime/engine-session.js";
import { elementCount } from "../tensor/dtype.js";
import type { ParameterSpec } from "./parameters.js";

/** How much is dropped, and from which draws. */
export interface DropoutOptions {
  /** Probability that an input of the LoRA is dropped, above 0 and below 1. */
  rate: number;
  seed: number;
}

/** Names of the inputs. */
export const DROPOUT_IO = {
  /** [batch, seq, 1] */
  tokens: "dropout_tokens",
  /** The features of all masked inputs, one after another. */
  features: "dropout_features",
} as const;

/** Which of a layer's inputs a projection reads. */
function inputOf(target: LoraTarget): string {
  if (/\.(q|k|v|qkv)_proj$/.test(target)) return "attention";
  if (/\.(gate|up|gate_up)_proj$/.test(target)) return "mlp";
  return target;
}

/** Where the features of each masked input lie in one vector. */
function placeFeatures(
  config: DecoderConfig,
  { targets }: ParameterSpec,
): { places: Map<string, { offset: number; size: number }>; size: number } {
  const places = new Map<string, { offset: number; size: number }>();
  let offset = 0;
  for (let layer = 0; layer < config.layerCount; layer++) {
    for (const target of targets) {
      const key = `${layer}.${inputOf(target)}`;
      if (places.has(key)) continue;
      const [size] = projectionSize(config, target);
      places.set(key, { offset, size });
      offset += size;
    }
  }
  return { places, size: offset };
}

/**
 * `x` [...rows, features] with elements dropped and the others scaled by 1 / (1 − rate).
 * @param tokens [...rows, 1], uniform in [0, 1)
 * @param features [features], uniform in [0, 1)
 */
function drop(graph: GraphBuilder, x: Value, tokens: Value, features: Value, rate: number): Value {
  // Made to depend on x, the mask is computed again with x where activations are recomputed, instead of being kept.
  const first = cast(graph, slice(graph, reshape(graph, x, [elementCount(x.shape as number[])]), 0, 0, 1), "float32");
  const sum = add(graph, add(graph, tokens, scale(graph, first, 0)), features);
  const fraction = sub(graph, sum, floor(graph, sum));
  const kept = floor(graph, add(graph, fraction, graph.floats([1 - rate], [])));
  return mul(graph, x, scale(graph, cast(graph, kept, x.dtype), 1 / (1 - rate)));
}

/** Declares the inputs, and gives what the decoder asks for at each projection with a LoRA. */
export function emitDropout(
  graph: GraphBuilder,
  config: DecoderConfig,
  spec: ParameterSpec & { batch: number; seq: number },
  { rate }: DropoutOptions,
): (layer: number, target: LoraTarget, x: Value, rows?: Value) => Value {
  const { places, size } = placeFeatures(config, spec);
  const tokens = graph.input(DROPOUT_IO.tokens, "float32", [spec.batch, spec.seq, 1]);
  const features = graph.input(DROPOUT_IO.features, "float32", [size]);
  const masked = new Map<string, Value>();
  return (layer, target, x, rows) => {
    const known = masked.get(x.name);
    if (known !== undefined) return known;
    const place = places.get(`${layer}.${inputOf(target)}`);
    if (place === undefined) return x;
    const own = rows && gatherRows(graph, reshape(graph, tokens, [spec.batch * spec.seq, 1]), rows);
    const dropped = drop(graph, x, own ?? tokens, slice(graph, features, 0, place.offset, place.size), rate);
    masked.set(x.name, dropped);
    return dropped;
  };
}

/** The random numbers of one micro-batch; equal draws give equal numbers. */
export function dropoutFeeds(
  config: DecoderConfig,
  spec: ParameterSpec & { batch: number; seq: number },
  { seed }: DropoutOptions,
  draw: number,
): Feeds {
  const random = new SeededRandom(seed, "dropout", draw);
  const numbers = (count: number): Float32Array => {
    const values = new Float32Array(count);
    // Multiples of 2⁻²³ have sums that float32 holds exactly.
    for (let i = 0; i < count; i++) values[i] = Math.floor(random.next() * 2 ** 23) / 2 ** 23;
    return values;
  };
  const { size } = placeFeatures(config, spec);
  return {
    [DROPOUT_IO.tokens]: floatTensor(numbers(spec.batch * spec.seq), [spec.batch, spec.seq, 1]),
    [DROPOUT_IO.features]: floatTensor(numbers(size), [size]),
  };
}
