/** @file Spans that a user marks: `<CL> … <CR>` in text, or their ids among token ids. */
import { PrecisError } from "../errors.js";
import { sentinelIds, type Span } from "../sentinel/sentinel-tokens.js";

/** Opens a span in text. */
export const SPAN_OPEN = "<CL>";

/** Closes a span in text. */
export const SPAN_CLOSE = "<CR>";

/** Token ids without sentinels, and the spans that those wrapped. */
export interface MarkedIds {
  ids: number[];
  spans: Span[];
}

function misplaced(problem: string, value: unknown): PrecisError {
  return new PrecisError("INPUT_INVALID", problem, {
    value,
    nextStep: `Wrap each span as ${SPAN_OPEN}text${SPAN_CLOSE}; spans may follow one another, but not nest.`,
  });
}

/** Collects pieces of ids, and spans as markers open and close them. */
class MarkReader {
  readonly ids: number[] = [];
  readonly spans: Span[] = [];
  #start: number | undefined;

  open(value: unknown): void {
    if (this.#start !== undefined) throw misplaced("A span opens inside another one.", value);
    this.#start = this.ids.length;
  }

  close(value: unknown): void {
    if (this.#start === undefined) throw misplaced("A span closes that was not opened.", value);
    if (this.#start === this.ids.length) throw misplaced("A span is empty.", value);
    this.spans.push({ start: this.#start, end: this.ids.length });
    this.#start = undefined;
  }

  finish(value: unknown): MarkedIds {
    if (this.#start !== undefined) throw misplaced("A span is not closed.", value);
    return { ids: this.ids, spans: this.spans };
  }
}

/** A marker with the white space around it. */
const MARKER = new RegExp(`(\\s*)(${SPAN_OPEN}|${SPAN_CLOSE})(\\s*)`, "u");

/**
 * Reads text with `<CL>` and `<CR>` in it. White space beside a marker belongs to what follows it, as words bring the
 * space before them; on both sides of a marker it counts once.
 * @param encode the ids of a piece of text; `isFirst` for the piece at the beginning, which may be empty
 * @throws PrecisError INPUT_INVALID for markers that nest, do not match, or wrap nothing
 */
export function readMarkedText(text: string, encode: (piece: string, isFirst: boolean) => number[]): MarkedIds {
  const reader = new MarkReader();
  // Three groups: pieces of text are at every fourth place, each before its marker.
  const parts = text.split(MARKER);
  let space = "";
  for (let at = 0; at < parts.length; at += 4) {
    const [piece = "", before = "", marker, after = ""] = parts.slice(at, at + 4);
    // White space with no text before the next marker waits for the text behind that.
    const alone = piece === "" && marker !== undefined;
    const whole = alone ? "" : space + piece;
    if (whole !== "" || at === 0) for (const id of encode(whole, at === 0)) reader.ids.push(id);
    if (marker === SPAN_OPEN) reader.open(text.slice(0, 100));
    if (marker === SPAN_CLOSE) reader.close(text.slice(0, 100));
    space = [before, after, alone ? space : ""].find((found) => found !== "") ?? "";
  }
  return reader.finish(text.slice(0, 100));
}

/**
 * Reads token ids in which `vocabSize` stands for `<CL>` and `vocabSize + 1` for `<CR>`.
 * @throws PrecisError INPUT_INVALID as {@link readMarkedText}
 */
export function readMarkedIds(marked: readonly number[], vocabSize: number): MarkedIds {
  const { open, close } = sentinelIds(vocabSize);
  const reader = new MarkReader();
  for (const id of marked) {
    if (id === open) reader.open(id);
    else if (id === close) reader.close(id);
    else reader.ids.push(id);
  }
  return reader.finish(marked.slice(0, 50));
}
