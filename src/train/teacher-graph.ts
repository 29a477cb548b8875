/** @file The teacher of distillation as a part of the training graph: the frozen base, reading the full context. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import type { DecoderConfig, LayerType } from "../models/config.js";
import { DecoderEmitter } from "../models/decoder.js";
import type { EmitterOptions } from "../models/decoder-io.js";
import type { DecoderWeights } from "../models/decoder-weights.js";
import { causalBlocks } from "./causal-blocks.js";
import { causalSampleBias } from "./mask-graph.js";
import { emitRotary } from "./rotary-rows.js";

/** Names of the teacher's inputs besides its rotary tables. */
export const TEACHER_IO = {
  inputIds: "teacher_input_ids",
  samples: "teacher_samples",
  labelRows: "teacher_label_rows",
} as const;

/**
 * Logits [labels, vocab] of the base model without LoRA and COMP tokens, at the rows that predict the labels. Nothing of
 * it depends on trained values, so differentiation adds nothing for it.
 * @param weights those of the student: both read one copy
 * @param sizes `attentionBlocks` as for the student's masks
 */
export function emitTeacher(
  graph: GraphBuilder,
  config: DecoderConfig,
  weights: DecoderWeights,
  sizes: { batch: number; seq: number; labels: number; attentionBlocks?: number },
  types: Pick<EmitterOptions, "compute" | "sumType">,
): Value {
  const { batch, seq, labels } = sizes;
  return graph.scope("teacher", () => {
    const samples = graph.input(TEACHER_IO.samples, "float32", [batch, seq]);
    const window = (type: LayerType): number | undefined => (type === "sliding" ? config.slidingWindow : undefined);
    const attentionBias = (type: LayerType): Value[] =>
      causalBlocks(seq, sizes.attentionBlocks).map((block) => causalSampleBias(graph, samples, block, window(type)));
    const emitter = new DecoderEmitter(graph, config, weights, sizes, {
      ...types,
      values: { attentionBias, ...emitRotary(graph, config, sizes, "teacher") },
    });
    const embeddings = emitter.lookUp(graph.input(TEACHER_IO.inputIds, "int64", [batch, seq]));
    const rows = graph.input(TEACHER_IO.labelRows, "int64", [labels]);
    return emitter.head(emitter.finalNorm(emitter.layersAt(embeddings, { rows })));
  });
}
