/**
 * @file Plain text in blocks for one parallel pass: with sentinel spans (Ren et al. 2023, arXiv:2310.08152), with the
 * local and scattered attention that it is compared with, or with full attention as the ceiling.
 */
import { SeededRandom, stableHash } from "../data/random.js";
import { PrecisError } from "../errors.js";
import { drawSpans } from "../sentinel/draw-spans.js";
import {
  recentSpans,
  recentSpanWords,
  recentStart,
  type Leaving,
  type SpanPlacement,
} from "../sentinel/recent-rules.js";
import { sentinelIds, sentinelPositions, type Span } from "../sentinel/sentinel-tokens.js";
import { isScatteredKept, localStart } from "../sentinel/sparse-rules.js";
import type { MaskRule } from "./attention-mask.js";
import { layoutStream, type StreamMode } from "./stream-layout.js";
import { IGNORED_LABEL, type ParallelLayout, type Segment } from "./parallel-layout.js";
import type { TokenIds } from "./parallel-mode.js";

/**
 * How a block of text is read:
 * - sentinel: spans are squeezed into the keys and values of their `<CR>`: some of the text, drawn at random (the
 *   default placement), or all of it, of which recent tokens stay visible;
 * - local: a token sees the nearest part of its history;
 * - scattered: tokens are visible to later ones at random;
 * - text: a token sees all of its history;
 * - streaming: a token sees a window, and a memory of what was before it.
 *
 * `ratios`: the share by which the cache shrinks is drawn for each block from [low, high]. `blockTokens`: tokens of a
 * block, sentinels included. `longest`: most words of a span.
 */
export type TextMode =
  | StreamMode
  | (TokenIds & { blockTokens: number } & (
        | {
            method: "sentinel";
            ratios: readonly [low: number, high: number];
            longest: number;
            placement?: SpanPlacement;
          }
        | { method: "local" | "scattered"; ratios: readonly [low: number, high: number] }
        | { method: "text" }
      ));

/** Text to be laid out. */
export interface TextBlock {
  /** Names the block, so that its random draws are the same whenever it is laid out. */
  key: string;
  ids: readonly number[];
  /** Indices of `ids` at which words begin; those before the first (such as a beginning-of-text token) stay outside. */
  wordStarts: readonly number[];
}

/** Whether a mode is for plain text. */
export function isTextMode(mode: { method: string }): mode is TextMode {
  return ["sentinel", "local", "scattered", "text", "streaming"].includes(mode.method);
}

/** Who sees whom around sentinel spans, on top of causality. */
export const SENTINEL_MASK: MaskRule = {
  sees(row, column) {
    switch (row.kind) {
      case "open":
        return false;
      case "close":
        return row.block === column.block && (column.kind === "open" || column.kind === "span");
      case "span":
        if (column.kind === "span") return row.block === column.block;
        return column.kind === "close" || column.kind === "text";
      default:
        return column.kind === "close" || column.kind === "text";
    }
  },
};

/** The same where recent tokens stay visible; which those are says {@link recentMask}. */
const RECENT_MASK: MaskRule = {
  sees: (row, column) =>
    row.kind === "open" || row.kind === "close" ? SENTINEL_MASK.sees(row, column) : column.kind !== "open",
};

/** Collects tokens with what is known of each. */
class BlockWriter {
  readonly segments: Segment[] = [];
  readonly ids: number[] = [];
  readonly positions: number[] = [];
  readonly labels: number[] = [];
  readonly predictors: number[] = [];
  #limit: number;
  #lastText = -1;
  #position = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Adds text, as far as there is room. */
  text(kind: "text" | "span", block: number, ids: readonly number[]): void {
    const start = this.ids.length;
    for (const id of ids.slice(0, Math.max(0, this.#limit - start))) {
      this.predictors.push(this.#lastText);
      this.labels.push(this.#lastText < 0 ? IGNORED_LABEL : id);
      this.#lastText = this.ids.length;
      this.ids.push(id);
      this.positions.push(this.#position++);
    }
    if (this.ids.length > start) this.segments.push({ kind, block, start, end: this.ids.length });
  }

  /** Adds a sentinel, if there is room for it and for `more` tokens; else the block ends here. */
  sentinel(kind: "open" | "close", block: number, id: number, more: number): void {
    const start = this.ids.length;
    if (start + 1 + more > this.#limit) this.#limit = start;
    if (start >= this.#limit) return;
    const positions = sentinelPositions(this.#position, this.#position - 1);
    this.predictors.push(start - 1);
    this.labels.push(IGNORED_LABEL);
    this.ids.push(id);
    this.positions.push(positions[kind]);
    this.segments.push({ kind, block, start, end: start + 1 });
  }
}

/**
 * Lays text with sentinel spans out. `<CL>` and `<CR>` have the positions before them and no labels; every token but the
 * first is predicted by the text token before it, whatever lies between. A block may end within a span, which then stays
 * open, as it would in a stream.
 * @param spans ranges of `ids`, in order and apart
 * @throws PrecisError INPUT_INVALID for spans that are empty, overlap or leave the text
 */
export function layoutSpans(ids: readonly number[], spans: readonly Span[], mode: TextMode): ParallelLayout {
  const { open, close } = sentinelIds(mode.vocabSize);
  const writer = new BlockWriter(mode.blockTokens);
  let outside = 0;
  spans.forEach(({ start, end }, block) => {
    if (start < outside || end <= start || end > ids.length) {
      throw new PrecisError("INPUT_INVALID", `The span [${start}, ${end}) is empty, overlaps or leaves the text.`, {
        value: { start, end },
      });
    }
    writer.text("text", block, ids.slice(outside, start));
    writer.sentinel("open", block, open, 1);
    writer.text("span", block, ids.slice(start, end));
    writer.sentinel("close", block, close, 0);
    outside = end;
  });
  writer.text("text", spans.length, ids.slice(outside));
  return finish(writer, SENTINEL_MASK, mode.padId);
}

/** Who sees whom where spans are all over a text, whose tokens leave at a ratio. */
function recentMask(segments: readonly Segment[], leaving: Leaving, ratio: number): MaskRule {
  /** Columns of text tokens, and for each column the first one that it sees. */
  const text: number[] = [];
  const first: number[] = [];
  const lastingColumns: number[] = [];
  let open = 0;
  const firstOf = (index: number): number | undefined =>
    text[recentStart(leaving, index, lastingColumns.length, Math.min(open, index), ratio)];
  for (const { kind, start, end } of segments) {
    // What a sentinel sees is its own span, whole.
    if (kind === "close") lastingColumns.push(start);
    if (kind === "open" || kind === "close") {
      first.push(0);
      open = Infinity;
      continue;
    }
    open = kind === "span" ? text.length : Infinity;
    for (let column = start; column < end; column++) {
      text.push(column);
      first.push(firstOf(text.length - 1) ?? column);
    }
  }
  // An open span that does not count is not among what is left either.
  if (leaving === "spanwise") open = Infinity;
  const next = firstOf(text.length) ?? first.length;
  return { ...RECENT_MASK, lastingColumns, firstColumn: (row) => first[row] ?? next };
}

/**
 * Lays text out in spans of up to `longest` words, one after the other, the last one still open. Tokens stay visible
 * while they are recent, as `recent-rules.ts` says, also when their span is closed.
 */
function layoutRecent(
  { ids, wordStarts }: TextBlock,
  leaving: Leaving,
  ratio: number,
  longest: number,
  mode: TextMode,
): ParallelLayout {
  const { open, close } = sentinelIds(mode.vocabSize);
  const writer = new BlockWriter(mode.blockTokens);
  const spans = recentSpans(wordStarts, ids.length, recentSpanWords(leaving, ratio, longest));
  writer.text("text", 0, ids.slice(0, spans[0]?.start));
  spans.forEach(({ start, end }, block) => {
    writer.sentinel("open", block, open, 1);
    writer.text("span", block, ids.slice(start, end));
    if (block < spans.length - 1) writer.sentinel("close", block, close, 0);
  });
  return finish(writer, recentMask(writer.segments, leaving, ratio), mode.padId);
}

function finish({ ids, ...written }: BlockWriter, mask: MaskRule, padId: number): ParallelLayout {
  const seq = ids.length;
  return {
    seq,
    mask,
    padId,
    segments: written.segments,
    inputBlock: 0,
    inputStart: 0,
    sinkColumns: [],
    inputIds: Int32Array.from(ids),
    positionIds: Int32Array.from(written.positions),
    // The LoRA acts on text as well.
    gate: new Float32Array(seq).fill(1),
    sumMask: new Uint8Array(seq),
    labels: Int32Array.from(written.labels),
    predictors: Int32Array.from(written.predictors),
  };
}

/** The ratio of a block: drawn evenly from the mode's range. */
function drawRatio([low, high]: readonly [number, number], random: SeededRandom): number {
  return low + (high - low) * random.next();
}

/** Spans of words as spans of tokens. */
function tokenSpans(words: readonly Span[], { ids, wordStarts }: TextBlock): Span[] {
  const at = (word: number): number => wordStarts[word] ?? ids.length;
  return words.map(({ start, end }) => ({ start: at(start), end: at(end) }));
}

/**
 * Lays a block of text out for a mode; the same block gives the same layout. All tokens but the first are labels;
 * of a stream, those with a memory before them.
 * @throws PrecisError OPTION_INVALID for a ratio outside [0, 1)
 */
export function layoutText(block: TextBlock, mode: TextMode): ParallelLayout {
  if (mode.method === "streaming") return layoutStream(block.ids, mode);
  const random = new SeededRandom(block.key, mode.method);
  if (mode.method === "sentinel") {
    const ratio = drawRatio(mode.ratios, random);
    const { placement = "random", longest } = mode;
    if (placement !== "random") return layoutRecent(block, placement, ratio, longest, mode);
    const words = drawSpans(block.wordStarts.length, ratio, longest, random);
    return layoutSpans(block.ids, tokenSpans(words, block), mode);
  }
  const writer = new BlockWriter(mode.blockTokens);
  writer.text("text", 0, block.ids);
  const mask: MaskRule = { sees: () => true };
  if (mode.method === "local") {
    const ratio = drawRatio(mode.ratios, random);
    mask.firstColumn = (row) => localStart(row, ratio);
  } else if (mode.method === "scattered") {
    const ratio = drawRatio(mode.ratios, random);
    const seed = stableHash(block.key);
    mask.hiddenColumns = writer.ids.flatMap((_, token) => (isScatteredKept(token, ratio, seed) ? [] : [token]));
  }
  return finish(writer, mask, mode.padId);
}
