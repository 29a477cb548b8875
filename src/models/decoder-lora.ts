/** @file Adds the LoRA updates of a decoder's projections, from matrices that are fed at every run or trained. */
import type { Dim, Value } from "../graph/builder.js";
import type { DecoderContext, LoraSource, Place } from "./decoder-context.js";
import { DECODER_IO, type LoraTarget } from "./decoder-io.js";
import { addLora, addStackedLora, type LoraUpdate, type StackedLora } from "./lora.js";

/**
 * Projections of one input `x` with their updates.
 * @param bases what each projection gives without its update, [..., out]
 * @param names of the projections, in the same order
 */
export function adapt(
  decoder: DecoderContext,
  place: Place,
  x: Value,
  bases: readonly Value[],
  names: readonly string[],
): Value[] {
  const { graph, lora } = decoder;
  const { layer, gate } = place;
  const targets = targetsAmong(lora, names);
  const [first] = targets;
  if (gate === undefined || first === undefined) return [...bases];
  if (lora.trained === undefined) return addLora(graph, gate, bases, fedUpdates(decoder, place, x, bases, names));
  const changed = bases.filter((_, index) => lora.targets.has(names[index] as string));
  const stack = lora.trained(layer, targets);
  const updated = addStackedLora(graph, gate, inputOf(lora, place, first, x), stack, changed);
  return bases.map((base) => updated[changed.indexOf(base)] ?? base);
}

/** The same for projections whose outputs lie side by side, [..., outputs]; the matrices of their updates are trained ones. */
export function adaptJoined(
  { graph, lora }: DecoderContext,
  place: Place,
  x: Value,
  joined: Value,
  names: readonly string[],
): Value {
  const { layer, gate } = place;
  const targets = targetsAmong(lora, names);
  const [first] = targets;
  if (gate === undefined || first === undefined) return joined;
  const stack = lora.trained?.(layer, targets, names as LoraTarget[]) as StackedLora;
  return addStackedLora(graph, gate, inputOf(lora, place, first, x), stack, [joined])[0] as Value;
}

/** Declares the matrices of updates as inputs; undefined where a projection has none. */
function fedUpdates(
  { graph, lora }: DecoderContext,
  place: Place,
  x: Value,
  bases: readonly Value[],
  names: readonly string[],
): (LoraUpdate | undefined)[] {
  const { layer } = place;
  return names.map((name, index) => {
    if (!lora.targets.has(name)) return undefined;
    const [inFeatures, outFeatures] = [x, bases[index] as Value].map(({ shape }) => shape[shape.length - 1] as Dim);
    const rank = `rank.${name}`;
    return {
      input: inputOf(lora, place, name as LoraTarget, x),
      a: graph.input(DECODER_IO.loraA(layer, name), "float32", [rank, inFeatures as Dim]),
      b: graph.input(DECODER_IO.loraB(layer, name), "float32", [outFeatures as Dim, rank]),
    };
  });
}

function targetsAmong({ targets }: LoraSource, names: readonly string[]): LoraTarget[] {
  return names.filter((name): name is LoraTarget => targets.has(name));
}

/** What the LoRA of a projection reads; the same for all projections of one input. */
function inputOf({ input }: LoraSource, { layer, picks }: Place, target: LoraTarget, x: Value): Value {
  return input?.(layer, target, x, picks?.rows) ?? x;
}
