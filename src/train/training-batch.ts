/** @file A padded or packed batch as the inputs of a training graph. */
import { DECODER_IO } from "../models/decoder-io.js";
import type { DecoderConfig } from "../models/config.js";
import { floatTensor, integerTensor, type Feeds } from "../runtime/engine-session.js";
import { PrecisError } from "../errors.js";
import { dropoutFeeds } from "./lora-dropout.js";
import type { PaddedBatch } from "./padded-batch.js";
import { IGNORED_LABEL } from "./parallel-layout.js";
import { rotaryFeeds } from "./rotary-rows.js";
import { teacherKnowsLabels, type TeacherBatch } from "./teacher-batch.js";
import { TEACHER_IO } from "./teacher-graph.js";
import { maskFeeds } from "./training-masks.js";
import { TRAINING_IO, type TrainingGraphSpec } from "./training-graph.js";

/** A batch, with the inputs of the teacher where there is one. */
export interface DistilledBatch extends PaddedBatch {
  teacher?: TeacherBatch;
}

/** Labels of a batch: which rows predict, and what. */
export interface BatchLabels {
  /** Indices into [batch · seq] of the tokens whose logits are used; distinct. */
  rows: number[];
  /** Indices of the tokens to be predicted there. */
  tokens: number[];
  /** The ids of those. */
  ids: number[];
}

/** The labels of a batch, each at the token that predicts it: the one before it, but for new tokens between them. */
export function batchLabels({ batch, seq, labels, predictors }: PaddedBatch): BatchLabels {
  const rows: number[] = [];
  const tokens: number[] = [];
  const ids: number[] = [];
  for (let b = 0; b < batch; b++) {
    for (let token = 1; token < seq; token++) {
      const id = labels[b * seq + token] as number;
      if (id === IGNORED_LABEL) continue;
      rows.push(b * seq + (predictors[b * seq + token] as number));
      tokens.push(b * seq + token);
      ids.push(id);
    }
  }
  return { rows, tokens, ids };
}

/**
 * The labels as inputs of a training graph.
 * @param total number of labels that the mean is over; default: these
 * @throws INPUT_INVALID if there are more labels than the graph takes
 */
export function labelFeeds(labels: BatchLabels, spec: TrainingGraphSpec, total: number = labels.rows.length): Feeds {
  const tokens = spec.batch * spec.seq;
  const count = labels.rows.length;
  if (count > spec.labels) {
    throw new PrecisError("INPUT_INVALID", `The batch has ${count} labels; the graph takes ${spec.labels}.`, {
      value: count,
    });
  }
  const rows = new Int32Array(spec.labels);
  const ids = new Int32Array(spec.labels);
  const inverse = new Int32Array(tokens).fill(spec.labels);
  const place = (index: number, row: number): void => {
    rows[index] = row;
    inverse[row] = index;
  };
  labels.rows.forEach((row, index) => place(index, row));
  ids.set(labels.ids);
  // Unused places still need rows of their own, since no row may be picked twice.
  for (let row = 0, index = count; index < spec.labels; row++) if (inverse[row] === spec.labels) place(index++, row);
  const weights = new Float32Array(spec.labels);
  weights.fill(1 / Math.max(1, total), 0, count);
  return {
    [TRAINING_IO.labelRows]: integerTensor(rows),
    [TRAINING_IO.labelInverse]: integerTensor(inverse),
    [TRAINING_IO.labelIds]: integerTensor(ids),
    [TRAINING_IO.labelWeights]: floatTensor(weights, [spec.labels, 1]),
  };
}

function tokenFeeds(config: DecoderConfig, batch: PaddedBatch, spec: TrainingGraphSpec): Feeds {
  const { compTokens } = spec;
  const { vocabSize } = config;
  const shape = [batch.batch, batch.seq];
  const ids = batch.inputIds.map((id) => (id < vocabSize ? id : 0));
  if (compTokens === 0) return { [TRAINING_IO.inputIds]: integerTensor(ids, shape) };
  const mask = Float32Array.from(batch.inputIds, (id) => (id < vocabSize ? 1 : 0));
  const selection = new Float32Array(batch.inputIds.length * compTokens);
  batch.inputIds.forEach((id, token) => {
    // SUM tokens come after the COMP ids and need no embedding: their keys and values are replaced.
    const k = id - vocabSize;
    if (k >= 0 && k < compTokens) selection[token * compTokens + k] = 1;
  });
  return {
    [TRAINING_IO.inputIds]: integerTensor(ids, shape),
    [TRAINING_IO.textMask]: floatTensor(mask, [...shape, 1]),
    [TRAINING_IO.compSelection]: floatTensor(selection, [...shape, compTokens]),
  };
}

/** What the teacher reads, and the rows of its logits that belong to the labels. */
function teacherFeeds(
  config: DecoderConfig,
  teacher: TeacherBatch,
  { batch, seq, labels: places }: TrainingGraphSpec,
  { tokens }: BatchLabels,
): Feeds {
  const labelRows = new Int32Array(places);
  tokens.forEach((token, place) => (labelRows[place] = teacher.predictors[token] as number));
  return {
    ...rotaryFeeds(config, teacher.positionIds, { batch, seq }, "teacher"),
    [TEACHER_IO.inputIds]: integerTensor(teacher.inputIds, [batch, seq]),
    [TEACHER_IO.samples]: floatTensor(teacher.samples, [batch, seq]),
    [TEACHER_IO.labelRows]: integerTensor(labelRows),
  };
}

/**
 * Inputs of one forward and backward pass.
 * @param labels defaults to those of the batch
 * @param draw names the random numbers of dropout; equal ones give equal numbers
 * @throws INPUT_INVALID if there are more labels or positions than the graph takes, or distillation lacks the teacher's
 *   inputs
 */
export function trainingFeeds(
  config: DecoderConfig,
  batch: DistilledBatch,
  spec: TrainingGraphSpec,
  labels: BatchLabels = batchLabels(batch),
  draw: number = 0,
): Feeds {
  const feeds = forwardFeeds(config, batch, spec, labels);
  if (spec.dropout !== undefined) Object.assign(feeds, dropoutFeeds(config, spec, spec.dropout, draw));
  if (spec.distill === undefined) return feeds;
  const { teacher } = batch;
  if (teacher === undefined || !teacherKnowsLabels(batch.labels, teacher)) {
    throw new PrecisError("INPUT_INVALID", "The batch does not say what the teacher reads before each label.", {
      nextStep: "Make it with placeTeacher, of samples whose first token is not a label.",
    });
  }
  return { ...feeds, ...teacherFeeds(config, teacher, spec, labels) };
}

/**
 * Inputs of the forward pass alone.
 * @throws INPUT_INVALID if there are more labels or positions than the graph takes
 */
export function forwardFeeds(
  config: DecoderConfig,
  batch: PaddedBatch,
  spec: TrainingGraphSpec,
  labels: BatchLabels = batchLabels(batch),
): Feeds {
  return { ...sequenceFeeds(config, batch, spec), ...labelFeeds(labels, spec) };
}

/**
 * Everything but the labels: tokens, positions, masks.
 * @throws INPUT_INVALID if there are more positions than the graph takes
 */
export function sequenceFeeds(config: DecoderConfig, batch: PaddedBatch, spec: TrainingGraphSpec): Feeds {
  const everywhere = spec.compTokens === 0 || spec.conditional === false;
  const gate = everywhere ? new Float32Array(batch.gate.length).fill(1) : batch.gate;
  return {
    ...tokenFeeds(config, batch, spec),
    ...rotaryFeeds(config, batch.positionIds, batch, "student"),
    [DECODER_IO.gate]: floatTensor(gate, [batch.batch, batch.seq, 1]),
    ...maskFeeds(config, batch, spec),
  };
}
