/**
 * @file The decoder graph of every family: embeddings, positions, bias and past rows in; logits and new rows out.
 * The past never comes back out, because the engine copies every output into JavaScript.
 */
import { GraphBuilder } from "../graph/builder.js";
import type { DecoderConfig } from "./config.js";
import { DECODER_IO, type DecoderGraphOptions } from "./decoder-io.js";
import type { DecoderWeights } from "./decoder-weights.js";
import { DecoderEmitter } from "./decoder.js";

/**
 * The graph of one decoder. See {@link DECODER_IO} for its inputs and outputs; all are float32 but the int64 row numbers.
 * Attention bias is [batch, 1, seq, past + seq]; past rows are [batch, kvHeads, past, headDim]; new rows come out as
 * [batch, seq, kvHeads · headDim], keys after RoPE; logits as [picked, vocab] for the rows of [batch · seq] asked for.
 */
export function buildDecoder(
  config: DecoderConfig,
  weights: DecoderWeights,
  options: DecoderGraphOptions = {},
): GraphBuilder {
  const graph = new GraphBuilder(config.family, options.form);
  const dims = { batch: "batch", seq: "seq" };
  const emitter = new DecoderEmitter(graph, config, weights, dims, { ...options, cached: true });
  const embeddings =
    options.input === "ids"
      ? emitter.lookUp(graph.input(DECODER_IO.inputIds, "int64", ["batch", "seq"]))
      : graph.input(DECODER_IO.embeddings, "float32", ["batch", "seq", config.hiddenSize]);
  const rows = graph.input(DECODER_IO.logitRows, "int64", ["picked"]);
  graph.output(emitter.logits(emitter.layers(embeddings), rows), DECODER_IO.logits);
  return graph;
}
