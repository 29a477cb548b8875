/**
 * @file The parallel forward of Compressed Context Memory (arXiv 2312.03414, section 3.2): all time steps, their COMP
 * tokens and the input in one sequence, with positions, an attention mask and an averaging matrix that make one pass
 * equal to compressing step by step. Layouts are those of the authors' code (snu-mllab/Context-Memory).
 */

import { PrecisError } from "../errors.js";
import { segmentSees, type MaskRule } from "./attention-mask.js";
import { mergeWeight } from "./averaging.js";
import { noAveraging, writeGroups, type AveragingGroups } from "./averaging-groups.js";
import { packAttend, packedWords } from "./packed-mask.js";
import { PAD_POSITION, skipPositions } from "./positions.js";

/** Label of a token that the loss leaves out. */
export const IGNORED_LABEL = -100;

/** Ids that a layout needs to know. COMP and SUM ids start at `vocabSize`. */
export interface TokenIds {
  /** Size of the model's own vocabulary. */
  vocabSize: number;
  /** Fills padding; masked by place, so the id may also occur in text. */
  padId: number;
  /** What a sink keeps visible. */
  bosId: number;
}

/**
 * How context is compressed in the parallel forward. c = time step, C = COMP tokens, S = SUM tokens:
 * - concat: `c1 C c2 C c3 C input`; memory is every C;
 * - merge, recursive: `c1 C S c2 C S c3 C S input`, else `c1 C c2 C c3 C S input`; memory is the mean (or moving
 *   average, with `decay`) of every C;
 * - gist: `c1 c2 c3 C input`; one compression of everything;
 * - compressive: `c1 S c2 S c3 S input`; S are means of runs of the step's own tokens, and memory is every S. A step has
 *   `compTokens` of them, or one per token where it is shorter; tokens that are sinks are not pooled;
 * - full: `c1 c2 c3 input`; none: `input`. The two bounds, without new tokens.
 *
 * `recursive`: a time step sees the memory so far while it is compressed; otherwise only itself.
 * `compTokens`: COMP tokens per time step. `sink`: tokens of id `bosId` stay visible to all later ones.
 */
export type ParallelMode = TokenIds &
  (
    | { method: "concat"; recursive: boolean; compTokens: number; sink: boolean }
    | { method: "merge"; recursive: boolean; compTokens: number; sink: boolean; decay?: number }
    | { method: "gist"; compTokens: number; sink: boolean; recursive?: boolean }
    | { method: "compressive"; recursive: boolean; compTokens: number; sink: boolean }
    | { method: "full"; compTokens?: number; sink?: boolean; recursive?: boolean }
    | { method: "none"; compTokens?: number; sink?: boolean; recursive?: boolean }
  );

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

/** Layouts padded to one length. */
export interface PaddedBatch {
  batch: number;
  seq: number;
  /** [batch, seq] */
  inputIds: Int32Array;
  /** [batch, seq], 1 at real tokens. */
  attentionMask: Uint8Array;
  /** [batch, seq, words]: who attends to whom, packed as in `packed-mask.ts`; rows and columns of pads are 0. */
  attendBits: Float32Array;
  /** [batch, seq] */
  positionIds: Int32Array;
  /** [batch, seq] */
  gate: Float32Array;
  /** [batch, seq] */
  sumMask: Uint8Array;
  /** [batch, seq], 1 at sinks, which even sliding windows keep. */
  sinkMask: Uint8Array;
  /** What the keys and values of SUM tokens are averages of; undefined where no layout has SUM tokens. */
  averaging: AveragingGroups | undefined;
  /** [batch, seq], {@link IGNORED_LABEL} at pads. */
  labels: Int32Array;
  /** [batch, seq], the column of the token that predicts this one. */
  predictors: Int32Array;
}

/** The ids of COMP_0..COMP_(n-1): the first ones after the vocabulary. Empty for the modes without COMP tokens. */
export function compTokenIds(mode: ParallelMode): number[] {
  const count = mode.method === "concat" || mode.method === "merge" || mode.method === "gist" ? mode.compTokens : 0;
  return Array.from({ length: count }, (_, k) => mode.vocabSize + k);
}

/** The ids of SUM_0..SUM_(n-1), after the COMP ids, in the modes that average: merge and compressive. Else none. */
export function sumTokenIds(mode: ParallelMode): number[] {
  if (mode.method !== "merge" && mode.method !== "compressive") return [];
  const first = mode.vocabSize + compTokenIds(mode).length;
  return Array.from({ length: mode.compTokens }, (_, k) => first + k);
}

function checkMode(mode: ParallelMode): void {
  if (mode.method === "full" || mode.method === "none") return;
  if (!Number.isInteger(mode.compTokens) || mode.compTokens < 1) {
    const message = `compTokens must be a positive whole number and is ${mode.compTokens}.`;
    throw new PrecisError("OPTION_INVALID", message, { value: mode.compTokens });
  }
  if (mode.method === "merge") mergeWeight(1, mode.decay);
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

/** Options of {@link padLayouts}. */
export interface PadOptions {
  /** Where pads go; default left, as the last logits then line up. */
  side?: "left" | "right";
  /** Length to pad to; default that of the longest layout. */
  length?: number;
}

/**
 * Pads layouts to a common length, one per row, and makes the masks of the batch, in time O(batch · seq²).
 * @throws PrecisError INPUT_INVALID when there are no layouts, or `length` is less than the longest
 */
export function padLayouts(layouts: readonly ParallelLayout[], options: PadOptions = {}): PaddedBatch {
  const longest = Math.max(...layouts.map((layout) => layout.seq));
  const { side = "left", length: seq = longest } = options;
  if (layouts.length === 0) throw new PrecisError("INPUT_INVALID", "A batch needs at least one layout.");
  if (seq < longest) throw new PrecisError("INPUT_INVALID", `A layout of ${longest} tokens exceeds length ${seq}.`);
  return placeLayouts(
    layouts.map((layout) => [{ layout, start: side === "left" ? seq - layout.seq : 0 }]),
    seq,
  );
}

/** A layout and the column of its row at which it starts. */
export interface PlacedLayout {
  layout: ParallelLayout;
  start: number;
}

/** The batch of placed layouts. No token sees another layout's, and positions start again with each. */
export function placeLayouts(rows: readonly (readonly PlacedLayout[])[], seq: number): PaddedBatch {
  const batch = rows.length;
  const inputIds = new Int32Array(batch * seq).fill(rows[0]?.[0]?.layout.padId ?? 0);
  const attentionMask = new Uint8Array(batch * seq);
  const words = packedWords(seq);
  const attendBits = new Float32Array(batch * seq * words);
  const positionIds = new Int32Array(batch * seq).fill(PAD_POSITION);
  const gate = new Float32Array(batch * seq);
  const sumMask = new Uint8Array(batch * seq);
  const sinkMask = new Uint8Array(batch * seq);
  const labels = new Int32Array(batch * seq).fill(IGNORED_LABEL);
  const predictors = Int32Array.from(labels, (_, at) => (at % seq) - 1);
  const merges = rows.some((row) => row.some(({ layout }) => layout.sumMask.includes(1)));
  const averaging = merges ? noAveraging(batch * seq) : undefined;
  rows.forEach((row, b) => {
    for (const { layout, start } of row) {
      const first = b * seq + start;
      inputIds.set(layout.inputIds, first);
      attentionMask.fill(1, first, first + layout.seq);
      positionIds.set(layout.positionIds, first);
      gate.set(layout.gate, first);
      sumMask.set(layout.sumMask, first);
      for (const column of layout.sinkColumns) sinkMask[first + column] = 1;
      labels.set(layout.labels, first);
      if (layout.predictors !== undefined) {
        predictors.set(
          layout.predictors.map((token) => start + token),
          first,
        );
      }
      packAttend(layout, attendBits, words, first, start);
      if (averaging !== undefined) writeGroups(layout, averaging, b * seq, start);
    }
  });
  const masks = { attentionMask, attendBits, gate, sumMask, sinkMask };
  return { batch, seq, inputIds, positionIds, ...masks, averaging, labels, predictors };
}
