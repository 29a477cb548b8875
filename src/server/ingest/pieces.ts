/** @file Cuts documents into time steps. */
import type { ChatMessage } from "../../index.js";
import type { IngestDocument } from "./documents.js";

/** One time step of a document. */
export interface Piece {
  input: string | readonly ChatMessage[];
  /** How far the document is taken in after it: characters of a text, or messages. */
  end: number;
  /** Its characters, to tell how far the work is. */
  size: number;
}

/** How a text is cut. */
export interface CutOptions {
  /** About how many tokens a time step has at most. */
  stepTokens: number;
  countTokens: (text: string) => Promise<number>;
}

/** How far a document goes: characters of a text, or messages. */
export function lengthOf({ content }: IngestDocument): number {
  return content.length;
}

/** Characters of a document. */
export function sizeOf({ content }: IngestDocument): number {
  return typeof content === "string"
    ? content.length
    : content.reduce((sum, message) => sum + message.content.length, 0);
}

/** What of a document is not taken in yet, step by step. @param from how far it was */
export async function* piecesOf(document: IngestDocument, from: number, options: CutOptions): AsyncGenerator<Piece> {
  const { content } = document;
  if (typeof content !== "string") {
    for (let at = from; at < content.length; at++) {
      const message = content[at] as ChatMessage;
      yield { input: [message], end: at + 1, size: message.content.length };
    }
    return;
  }
  let [piece, tokens, end] = ["", 0, from];
  const flush = (): Piece => ({ input: piece, end, size: piece.length });
  for (const part of parts(content.slice(from), "sentence")) {
    for (const { text, count } of await fitting(part, options)) {
      if (tokens + count > options.stepTokens && piece !== "") {
        yield flush();
        [piece, tokens] = ["", 0];
      }
      piece += text;
      tokens += count;
      end += text.length;
    }
  }
  if (piece !== "") yield flush();
}

function* parts(text: string, granularity: "sentence" | "word"): Generator<string> {
  for (const { segment } of new Intl.Segmenter(undefined, { granularity }).segment(text)) yield segment;
}

/** A sentence, or its words if it is longer than a step. */
async function fitting(
  sentence: string,
  { stepTokens, countTokens }: CutOptions,
): Promise<{ text: string; count: number }[]> {
  const count = await countTokens(sentence);
  if (count <= stepTokens) return [{ text: sentence, count }];
  const words: { text: string; count: number }[] = [];
  for (const word of parts(sentence, "word")) {
    // What has no words, such as encoded data, is cut where it must be.
    for (const text of word.match(new RegExp(`.{1,${stepTokens}}`, "gsu")) ?? []) {
      words.push({ text, count: await countTokens(text) });
    }
  }
  return words;
}
