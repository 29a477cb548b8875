/** @file Reads JSON files of conversations and token ids, with errors that say what is expected. */
import { readFile } from "node:fs/promises";
import { PrecisError } from "../errors.js";
import type { MemoryInput } from "../runtime/protocol.js";
import type { ChatMessage } from "../text/chat-template.js";
import { isRecord, isSystemError } from "../weights/files.js";

/** What a file is to hold, for people. */
export interface Expectation {
  file: string;
  nextStep: string;
}

/** A FILE_INVALID error about the file. */
export function invalidContent({ file, nextStep }: Expectation, problem: string, cause?: unknown): PrecisError {
  return new PrecisError("FILE_INVALID", `${file} ${problem}.`, { value: file, nextStep, cause });
}

/** The JSON value in a file. @throws FILE_NOT_FOUND, FILE_INVALID */
export async function readJson(expected: Expectation): Promise<unknown> {
  const { file, nextStep } = expected;
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) {
      throw new PrecisError("FILE_NOT_FOUND", `There is no file ${file}.`, { value: file, nextStep });
    }
    throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`, nextStep);
  });
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw invalidContent(expected, `is not valid JSON (${(error as Error).message})`, error);
  }
}

/** The messages of a conversation: an array of them, or an object with `messages`. Undefined for anything else. */
export function findMessages(json: unknown): unknown[] | undefined {
  const list = isRecord(json) ? json.messages : json;
  return Array.isArray(list) ? list : undefined;
}

/** `list` as messages. @throws FILE_INVALID naming the first item that is none */
export function checkMessages(list: readonly unknown[], expected: Expectation): ChatMessage[] {
  const wrong = list.findIndex(
    (item) => !isRecord(item) || typeof item.role !== "string" || typeof item.content !== "string",
  );
  if (wrong >= 0) {
    const shown = JSON.stringify(list[wrong])?.slice(0, 60);
    throw invalidContent(expected, `has something else than a message at index ${wrong}: ${shown}`);
  }
  return list.map((item) => {
    const { role, content } = item as ChatMessage;
    return { role, content };
  });
}

/** Splits a conversation into its context and the user message that it ends with, if it does. */
export function splitQuestion(messages: readonly ChatMessage[]): { context: ChatMessage[]; question?: ChatMessage } {
  const last = messages[messages.length - 1];
  if (last?.role !== "user") return { context: [...messages] };
  return { context: messages.slice(0, -1), question: last };
}

/** Text or token ids. @throws FILE_INVALID naming `place` */
export function checkPiece(
  value: unknown,
  place: string,
  expected: Expectation,
): Exclude<MemoryInput, readonly ChatMessage[]> {
  const isIds = Array.isArray(value) && value.every((id) => Number.isSafeInteger(id) && id >= 0);
  if ((isIds && value.length > 0) || (typeof value === "string" && value !== "")) return value as string | number[];
  throw invalidContent(expected, `has a "${place}" that is neither a list of token ids nor a text`);
}
