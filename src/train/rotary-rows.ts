/**
 * @file Rotary tables of a training graph: a row for each position that occurs in a batch, and for each token the number
 * of its row. Rows of a batch count from 0 again and again, so a table with a row for each token would be many times as
 * large to make and to upload.
 */
import { PrecisError } from "../errors.js";
import type { GraphBuilder, Value } from "../graph/builder.js";
import type { DecoderConfig, LayerType } from "../models/config.js";
import { DECODER_IO, layerTypesOf, type DecoderValues } from "../models/decoder-io.js";
import { rotaryTable } from "../models/rotary.js";
import { floatTensor, integerTensor, type Feeds } from "../runtime/engine-session.js";

/** Which decoder of a training graph the tables are for. */
export type RotaryReader = "student" | "teacher";

/** Names of the inputs. */
export function rotaryNames(reader: RotaryReader): {
  cos: (type: LayerType) => string;
  sin: (type: LayerType) => string;
  rows: string;
} {
  const prefix = reader === "teacher" ? "teacher_" : "";
  return {
    cos: (type) => `${prefix}${DECODER_IO.rotaryCos(type)}`,
    sin: (type) => `${prefix}${DECODER_IO.rotarySin(type)}`,
    rows: `${prefix}rotary_rows`,
  };
}

/** Different positions that a batch may have. Every layout's are below the length of a row; pads may add one. */
export function rotaryCapacity({ seq }: { seq: number }): number {
  return seq + 1;
}

/** Declares the inputs: tables [capacity, rotaryDim / 2] of each layer type, and the rows int64 [batch, seq]. */
export function emitRotary(
  graph: GraphBuilder,
  config: DecoderConfig,
  sizes: { batch: number; seq: number },
  reader: RotaryReader,
): Required<Pick<DecoderValues, "rotary">> {
  const names = rotaryNames(reader);
  const rows = graph.input(names.rows, "int64", [sizes.batch, sizes.seq]);
  const table = (name: string, type: LayerType): Value =>
    graph.input(name, "float32", [rotaryCapacity(sizes), config.rotary[type].inverseFrequencies.length]);
  return { rotary: (type) => ({ cos: table(names.cos(type), type), sin: table(names.sin(type), type), rows }) };
}

/**
 * The positions of a batch as these inputs; equal ones share a row.
 * @param positions [batch, seq]
 * @throws INPUT_INVALID if there are more different positions than the graph's tables have rows
 */
export function rotaryFeeds(
  config: DecoderConfig,
  positions: Int32Array,
  { batch, seq }: { batch: number; seq: number },
  reader: RotaryReader,
): Feeds {
  const capacity = rotaryCapacity({ seq });
  const rowOf = new Map<number, number>();
  for (const position of positions) if (!rowOf.has(position)) rowOf.set(position, rowOf.size);
  if (rowOf.size > capacity) {
    throw new PrecisError("INPUT_INVALID", `The batch has ${rowOf.size} positions; the graph takes ${capacity}.`, {
      value: rowOf.size,
      nextStep: "Number the tokens of each sample from 0.",
    });
  }
  const names = rotaryNames(reader);
  const rows = positions.map((position) => rowOf.get(position) as number);
  const feeds: Feeds = { [names.rows]: integerTensor(rows, [batch, seq]) };
  for (const type of layerTypesOf(config)) {
    const pairs = config.rotary[type].inverseFrequencies.length;
    const { cos, sin } = rotaryTable(config.rotary[type], [...rowOf.keys()]);
    const filled = (values: Float32Array): Float32Array => {
      const table = new Float32Array(capacity * pairs);
      table.set(values);
      return table;
    };
    feeds[names.cos(type)] = floatTensor(filled(cos), [capacity, pairs]);
    feeds[names.sin(type)] = floatTensor(filled(sin), [capacity, pairs]);
  }
  return feeds;
}
