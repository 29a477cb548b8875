/** @file What can be taken into a session in bulk: texts, and histories of messages. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { readJsonLines } from "../../data/readers/jsonl.js";
import { PrecisError } from "../../errors.js";
import type { ChatMessage } from "../../index.js";
import { isRecord, isSystemError } from "../../weights/files.js";

/** A text or a history. */
export interface IngestDocument {
  /** Digest of the contents: a session takes each document in once, whatever its file is called. */
  id: string;
  /** For people. */
  name: string;
  /** A text, which is cut into time steps, or messages, a time step each. */
  content: string | readonly ChatMessage[];
}

const NEXT_STEP = 'Give a text file, or .json or .jsonl with messages such as {"role": "user", "content": "…"}.';

/** A document with its digest. @throws INPUT_INVALID for one without contents */
export function newDocument(name: string, content: string | readonly ChatMessage[]): IngestDocument {
  const isEmpty = typeof content === "string" ? content.trim() === "" : content.length === 0;
  if (isEmpty) {
    throw new PrecisError("INPUT_INVALID", `${name} holds nothing.`, { value: name, nextStep: NEXT_STEP });
  }
  const id = createHash("sha256").update(JSON.stringify(content)).digest("hex").slice(0, 32);
  return { id, name, content };
}

/**
 * The document in a file: messages in `.json` (an array, or an object with `messages`) and `.jsonl` (a message, or such an
 * object, a line; `.gz` too), and text in any other.
 * @throws FILE_NOT_FOUND, FILE_INVALID, INPUT_INVALID
 */
export async function readDocument(file: string): Promise<IngestDocument> {
  const name = basename(file);
  if (/\.jsonl(\.gz)?$/i.test(file)) {
    const messages: ChatMessage[] = [];
    for await (const record of readJsonLines(file)) messages.push(...messagesIn(record, file));
    return newDocument(name, messages);
  }
  const bytes = await readFile(file).catch((error: unknown) => {
    const isMissing = isSystemError(error, "ENOENT", "ENOTDIR");
    throw PrecisError.from(error, isMissing ? "FILE_NOT_FOUND" : "FILE_INVALID", `Cannot read ${file}`, NEXT_STEP);
  });
  const text = decode(bytes, file);
  if (!/\.json$/i.test(file)) return newDocument(name, text);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw PrecisError.from(error, "FILE_INVALID", `${file} is not valid JSON`, NEXT_STEP);
  }
  return newDocument(name, messagesIn(value, file));
}

function decode(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw PrecisError.from(error, "FILE_INVALID", `${file} is not UTF-8 text`, NEXT_STEP);
  }
}

/** The messages of a value: itself, an array of them, or its field `messages`. */
function messagesIn(value: unknown, file: string): ChatMessage[] {
  const found = isRecord(value) && Array.isArray(value["messages"]) ? (value["messages"] as unknown) : value;
  return (Array.isArray(found) ? (found as unknown[]) : [found]).map((item) => {
    if (isRecord(item) && typeof item["role"] === "string" && typeof item["content"] === "string") {
      return { role: item["role"], content: item["content"] };
    }
    const shown = JSON.stringify(item)?.slice(0, 80);
    throw new PrecisError("FILE_INVALID", `${file} has what is no message: ${shown}.`, {
      value: shown,
      nextStep: NEXT_STEP,
    });
  });
}
