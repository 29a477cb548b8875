/**
 * @file The parallel forward of Compressed Context Memory (arXiv 2312.03414, section 3.2): all time steps, their COMP
 * tokens and the input in one sequence, with positions, an attention mask and an averaging matrix that make one pass
 * equal to compressing step by step. Layouts are those of the authors' code (snu-mllab/Context-Memory).
 */

import { PrecisError } from "../errors.js";
import { segmentSees, type MaskRule } from "./attention-mask.js";
import { checkMode, compTokenIds, sumTokenIds, type ParallelMode } from "./parallel-mode.js";
import { skipPositions } from "./positions.js";

/** Label of a token that the loss leaves out. */
export const IGNORED_LABEL = -100;

/** One training or evaluation sample, as token ids. */
export interface ParallelSample {
  /** The context: one list of ids per time step, none empty. BOS is part of the first one. */
  chunks: readonly (readonly number[])[];
  /** What follows the context: query and target. For "none" it brings its own BOS. May be empty. */
  input: readonly number[];
  /** Range [start, end) of `input` whose tokens are labels; the end defaults to the input's. No labels by default. */
  labels?: { start: number; end?: number };
}

/**
 * A run of tokens [start, end) that play one role. Blocks are numbered from 0; the input's is the last. `open`, `span`
 * and `close` are the parts of a sentinel span, whose block is the number of the span.
 */
export interface Segment {
  kind: "text" | "comp" | "sum" | "open" | "span" | "close";
  block: number;
  start: number;
  end: number;
}

/** A sample laid out for one pass. All arrays are [seq]. */
export interface ParallelLayout {
  seq: number;
  /** Who attends to whom. */
  mask: MaskRule;
  /** Fills what a batch has left. */
  padId: number;
  /** Whether averages are over the tokens of a step rather than over steps. */
  pools?: boolean;
  /** Moving-average weight of merging; the mean when left out. */
  decay?: number;
  segments: readonly Segment[];
  /** Block of the input. */
  inputBlock: number;
  /** Index of the input's first token; `seq` if it is empty. */
  inputStart: number;
  /** Tokens that are always visible. */
  sinkColumns: readonly number[];
  inputIds: Int32Array;
  positionIds: Int32Array;
  /** 1 at COMP and SUM tokens, where a conditional LoRA acts. */
  gate: Float32Array;
  /** 1 at SUM tokens, whose keys and values are replaced by averages. */
  sumMask: Uint8Array;
  /** Not shifted: the label of a token is its own id, to be predicted by its predictor. */
  labels: Int32Array;
  /** The token that predicts each token; default: the one before. */
  predictors?: Int32Array;
}

function checkSample({ chunks, input, labels }: ParallelSample, vocabSize: number): void {
  const emptyStep = chunks.findIndex((chunk) => chunk.length === 0);
  if (emptyStep >= 0) {
    throw new PrecisError("INPUT_INVALID", `Time step ${emptyStep} has no tokens.`, { nextStep: "Leave it out." });
  }
  for (const id of [...chunks, input].flat()) {
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    throw new PrecisError("INPUT_INVALID", `Token id ${id} is not in the vocabulary of ${vocabSize}.`, { value: id });
  }
  const { start = 0, end = input.length } = labels ?? {};
  if (start < 0 || end < start || end > input.length) {
    throw new PrecisError("INPUT_INVALID", `Labels [${start}, ${end}) exceed the input of ${input.length} tokens.`);
  }
}

/** Collects ids and the segments they form. */
class SequenceWriter {
  readonly ids: number[] = [];
  readonly segments: Segment[] = [];

  add(kind: Segment["kind"], block: number, ids: readonly number[]): void {
    const start = this.ids.length;
    for (const id of ids) this.ids.push(id);
    if (ids.length > 0) this.segments.push({ kind, block, start, end: this.ids.length });
  }
}

/** Writes the tokens of the context, and returns the block that the input belongs to. */
function writeContext(writer: SequenceWriter, chunks: ParallelSample["chunks"], mode: ParallelMode): number {
  const comp = compTokenIds(mode);
  const sum = sumTokenIds(mode);
  switch (mode.method) {
    case "none":
      return 0;
    case "full":
      for (const chunk of chunks) writer.add("text", 0, chunk);
      return 0;
    case "gist":
      for (const chunk of chunks) writer.add("text", 0, chunk);
      if (chunks.length > 0) writer.add("comp", 0, comp);
      return chunks.length > 0 ? 1 : 0;
    case "compressive":
      chunks.forEach((chunk, block) => {
        writer.add("text", block, chunk);
        const pooled = chunk.filter((id) => !mode.sink || id !== mode.bosId).length;
        writer.add("sum", block, sum.slice(0, pooled));
      });
      return chunks.length;
    case "concat":
    case "merge":
      chunks.forEach((chunk, block) => {
        writer.add("text", block, chunk);
        writer.add("comp", block, comp);
        if (mode.recursive) writer.add("sum", block, sum);
      });
      // Without recursion one average suffices; it opens the input's block.
      if (!mode.recursive && chunks.length > 0) writer.add("sum", chunks.length, sum);
      return chunks.length;
  }
}

/**
 * Lays a sample out for one parallel pass, in time linear in its length; masks are made by {@link padLayouts}.
 * @throws PrecisError OPTION_INVALID for a mode that makes no sense; INPUT_INVALID for an empty time step, an id
 *   outside the vocabulary, or a label range outside the input
 */
export function buildLayout(sample: ParallelSample, mode: ParallelMode): ParallelLayout {
  checkMode(mode);
  checkSample(sample, mode.vocabSize);
  const writer = new SequenceWriter();
  const inputBlock = writeContext(writer, sample.chunks, mode);
  const inputStart = writer.ids.length;
  writer.add("text", inputBlock, sample.input);
  const { ids, segments } = writer;
  const seq = ids.length;
  const gate = new Float32Array(seq);
  const sumMask = new Uint8Array(seq);
  for (const { kind, start, end } of segments) {
    if (kind !== "text") gate.fill(1, start, end);
    if (kind === "sum") sumMask.fill(1, start, end);
  }
  const labels = new Int32Array(seq).fill(IGNORED_LABEL);
  if (sample.labels !== undefined) {
    const { start, end } = sample.labels;
    labels.set(sample.input.slice(start, end), inputStart + start);
  }
  const sinkColumns = mode.sink === true ? ids.flatMap((id, column) => (id === mode.bosId ? [column] : [])) : [];
  const inputIds = Int32Array.from(ids);
  const positionIds = skipPositions(segments);
  const mask: MaskRule = { sees: (row, column) => segmentSees(mode, row, column, inputBlock) };
  const decay = mode.method === "merge" ? mode.decay : undefined;
  const places = {
    seq,
    segments,
    inputBlock,
    inputStart,
    sinkColumns,
    mask,
    padId: mode.padId,
    decay,
    pools: mode.method === "compressive",
  };
  return { ...places, inputIds, positionIds, gate, sumMask, labels };
}
