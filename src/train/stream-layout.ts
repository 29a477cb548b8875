/**
 * @file A text as streaming CCM (arXiv:2312.03414, section 4.3) reads it, in one parallel pass: `text C text C …`, a C
 * wherever the row of keys and values would outgrow its window. The row is followed token by token by the same rules
 * that the memory method goes by, and the mask lets each token see what the row held when it was read. Positions are
 * those of the text, since in one pass a key cannot move.
 */
import { planStep, slotsAfter, type StreamSizes } from "../memory/methods/stream-compression.js";
import { IGNORED_LABEL, type ParallelLayout, type Segment } from "./parallel-layout.js";
import type { TokenIds } from "./parallel-mode.js";
import { compPositions } from "./positions.js";

/** What decides where a stream is compressed; `compTokens` of one compression. */
export type StreamShape = StreamSizes & { compTokens: number };

/** Streams of text. `blockTokens`: tokens of a block of text, COMP tokens not counted. */
export type StreamMode = TokenIds & StreamShape & { method: "streaming"; blockTokens: number };

/** One token of the layout, and the epochs in which the row holds it. An epoch ends when something leaves the row. */
interface Slot {
  kind: "text" | "comp";
  /** In the layout. */
  index: number;
  position: number;
  from: number;
  /** The last epoch; Infinity for what stays. */
  until: number;
  /** The epoch at whose end it was compressed; Infinity for what never is. */
  compressed: number;
}

/** Follows the row through a text of `length` tokens. @returns all tokens of the layout, in order */
function followRow(length: number, mode: StreamShape): Slot[] {
  const slots: Slot[] = [];
  let row: Slot[] = [];
  let epoch = 0;
  const add = (kind: Slot["kind"], position: number, from: number): Slot => {
    const slot = { kind, index: slots.length, position, from, until: Infinity, compressed: Infinity };
    slots.push(slot);
    return slot;
  };
  for (let position = 0; position < length; position++) {
    row.push(add("text", position, epoch));
    const memory = row.filter(({ kind }) => kind === "comp").length;
    const stale = row.filter(({ compressed }) => compressed < Infinity).length;
    const step = planStep(mode, { length: row.length, memory, stale }, mode.compTokens);
    // Nothing would read a memory at the very end.
    if (step === undefined || position === length - 1) continue;
    const ended = epoch++;
    const source = row.slice(0, step.source);
    for (const slot of source.slice(step.sink + step.memory)) slot.compressed = ended;
    const textTokens = (source.at(-1)?.position ?? 0) + 1;
    const comp = source.length === 0 ? [] : compPositions(textTokens, mode.compTokens);
    const before: Slot[] = [...row, ...comp.map((at) => add("comp", at, epoch))];
    row = slotsAfter(step, row.length, comp.length).map((slot) => before[slot] as Slot);
    const kept = new Set(row);
    for (const slot of before) if (!kept.has(slot)) slot.until = ended;
  }
  return slots;
}

/** Whether a token sees an earlier one. */
function sees(row: Slot, column: Slot): boolean {
  if (row.kind === "text") return column.from <= row.from && row.from <= column.until;
  const ended = row.from - 1;
  // A compression reads its text and the memory before it; of its own COMP tokens each sees those before it.
  if (column.kind === "text") return column.compressed === ended;
  return column.from === row.from || (column.from <= ended && ended <= column.until);
}

/** Tokens of text that fit into a row of training beside their COMP tokens. */
export function streamRoom(rowLength: number, mode: StreamShape): number {
  const fitting = followRow(rowLength, mode).slice(0, rowLength);
  return fitting.filter(({ kind }) => kind === "text").length;
}

/**
 * Lays a text out. Labels are the tokens that are predicted with a memory in sight; before that there is nothing to
 * learn.
 */
export function layoutStream(text: readonly number[], mode: StreamMode): ParallelLayout {
  const slots = followRow(text.length, mode);
  const seq = slots.length;
  const segments: Segment[] = [];
  /** The first token of each segment: tokens in the row at the same time are seen together. */
  const first: Slot[] = [];
  const inputIds = new Int32Array(seq);
  const labels = new Int32Array(seq).fill(IGNORED_LABEL);
  const predictors = new Int32Array(seq);
  const firstMemory = slots.find(({ kind }) => kind === "comp")?.from ?? Infinity;
  let comp = 0;
  let lastText: Slot | undefined;
  for (const slot of slots) {
    const { kind, index, position, from, until, compressed } = slot;
    const previous = first.at(-1);
    const segment = segments.at(-1);
    comp = kind === "comp" && slots[index - 1]?.kind === "comp" ? comp + 1 : 0;
    if (
      segment !== undefined &&
      previous?.kind === kind &&
      previous.from === from &&
      previous.until === until &&
      previous.compressed === compressed
    ) {
      segment.end = index + 1;
    } else {
      segments.push({ kind, block: first.length, start: index, end: index + 1 });
      first.push(slot);
    }
    inputIds[index] = kind === "text" ? (text[position] as number) : mode.vocabSize + comp;
    predictors[index] = lastText?.index ?? -1;
    if (kind === "comp") continue;
    if (lastText !== undefined && lastText.from >= firstMemory) labels[index] = inputIds[index];
    lastText = slot;
  }
  return {
    seq,
    mask: { sees: (row, column) => sees(first[row.block] as Slot, first[column.block] as Slot) },
    padId: mode.padId,
    segments,
    inputBlock: 0,
    inputStart: 0,
    sinkColumns: slots.flatMap(({ kind, index, position }) => (kind === "text" && position < mode.sink ? [index] : [])),
    inputIds,
    positionIds: Int32Array.from(slots, ({ position }) => position),
    gate: Float32Array.from(slots, ({ kind }) => Number(kind === "comp")),
    sumMask: new Uint8Array(seq),
    labels,
    predictors,
  };
}
