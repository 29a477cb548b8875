/** @file The frozen model that training builds on: weights for graphs, tokenizer and template for data. */
import { PrecisError } from "../errors.js";
import type { DecoderConfig } from "../models/config.js";
import { storedWeights, type DecoderWeights } from "../models/decoder-weights.js";
import { frozenPlan, frozenWeights } from "../models/frozen-weights.js";
import { readDecoderConfig } from "../models/registry.js";
import { EmbeddingTable } from "../runtime/embedding-table.js";
import { ChatTemplate } from "../text/chat-template.js";
import { Tokenizer } from "../text/tokenizer.js";
import { fingerprintCheckpoint, openCheckpoint } from "../weights/checkpoint.js";
import type { DeriveOptions } from "../weights/derived.js";
import { placeTensors } from "../weights/placement.js";
import { quantizeCheckpoint } from "../weights/quantize.js";
import { readTensor } from "../weights/safetensors.js";
import type { Precision } from "./loss-scale.js";

/** Weights for graphs, and the folder that the engine finds them in. */
export interface PlacedWeights {
  weightsFolder: string;
  weights: () => DecoderWeights;
}

/** An opened base model; holds no engine resources. */
export interface BaseModel extends PlacedWeights {
  directory: string;
  config: DecoderConfig;
  fingerprint: string;
  tokenizer: Tokenizer;
  template: ChatTemplate;
  /** One row of the embedding table, [hidden]. */
  embedding: (id: number) => Float32Array;
  /** The factors that the last norm multiplies by, [hidden]. */
  finalNorm: Float32Array;
}

/**
 * Opens a model folder for training.
 * @throws FILE_NOT_FOUND, WEIGHTS_INVALID, MODEL_UNSUPPORTED; TEMPLATE_FAILED if the model has no chat template
 */
export async function openBaseModel(directory: string): Promise<BaseModel> {
  const checkpoint = await openCheckpoint(directory);
  const config = readDecoderConfig(checkpoint.config);
  const tokenizer = await Tokenizer.load(directory);
  const template = await ChatTemplate.load(directory, tokenizer);
  if (template === undefined) {
    throw new PrecisError("TEMPLATE_FAILED", `The model in ${directory} has no chat template.`, {
      nextStep: "Training data is rendered with it; add a chat_template to tokenizer_config.json.",
    });
  }
  const { folder, tensors } = placeTensors(checkpoint.tensors);
  const entry = tensors.get("model.embed_tokens.weight");
  if (entry === undefined) throw new PrecisError("WEIGHTS_INVALID", "The checkpoint has no embedding table.");
  const norm = tensors.get("model.norm.weight");
  if (norm === undefined) throw new PrecisError("WEIGHTS_INVALID", "The checkpoint has no last norm.");
  const embedding = (id: number): Float32Array => {
    using table = new EmbeddingTable(entry, 1);
    const row = new Float32Array(config.hiddenSize);
    table.write([id], row, 0, undefined);
    return row;
  };
  return {
    directory: checkpoint.directory,
    config,
    fingerprint: await fingerprintCheckpoint(checkpoint),
    weightsFolder: folder,
    weights: () => storedWeights(config, tensors),
    tokenizer,
    template,
    embedding,
    finalNorm: (await readTensor(norm)).map((factor) => factor + config.normOffset),
  };
}

/**
 * The weights of a model that graphs of a precision read: as they are stored, or a copy in 8 bits that is made once and kept
 * in the cache.
 * @throws WEIGHTS_INVALID if a matrix is not finite; ABORTED
 */
export async function weightsFor(
  model: BaseModel,
  precision: Precision,
  options: DeriveOptions = {},
): Promise<PlacedWeights> {
  if (precision !== "int8") return model;
  const { config } = model;
  const copy = await quantizeCheckpoint(await openCheckpoint(model.directory), frozenPlan(config), {
    ...options,
    bits: 8,
  });
  const { folder, tensors } = placeTensors(copy.tensors);
  return { weightsFolder: folder, weights: () => frozenWeights(config, tensors, copy.blockSize) };
}
