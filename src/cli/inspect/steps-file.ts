/** @file The input of `precis inspect`: time steps, and what comes after them. */
import type { MemoryInput } from "../../runtime/protocol.js";
import { isRecord } from "../../weights/files.js";
import {
  checkMessages,
  checkPiece,
  findMessages,
  invalidContent,
  readJson,
  splitQuestion,
} from "../conversation-file.js";

/** Time steps, and the input that is run after them. */
export interface StepsFile {
  steps: MemoryInput[];
  input?: MemoryInput;
}

const NEXT_STEP =
  'Give JSON: messages like [{"role": "user", "content": "…"}], or token ids like {"steps": [[5, 6], [7]], "input": [8, 9]}.';
const KEYS: readonly string[] = ["steps", "input", "stream"];

/**
 * Reads a conversation (each message a step, a last user message the input) or token ids (`steps`, and `input` or
 * `stream`, which mean the same).
 * @throws FILE_NOT_FOUND, FILE_INVALID
 */
export async function readStepsFile(file: string): Promise<StepsFile> {
  const expected = { file, nextStep: NEXT_STEP };
  const json = await readJson(expected);
  const messages = findMessages(json);
  if (messages !== undefined) {
    if (messages.length === 0) throw invalidContent(expected, "holds no messages");
    const { context, question } = splitQuestion(checkMessages(messages, expected));
    return { steps: context.map((message) => [message]), ...(question && { input: [question] }) };
  }
  if (!isRecord(json) || !KEYS.some((key) => Object.hasOwn(json, key))) {
    throw invalidContent(expected, 'holds neither messages nor "steps", "input" or "stream"');
  }
  const { steps = [], input, stream } = json;
  if (!Array.isArray(steps)) throw invalidContent(expected, 'has "steps" that are not a list');
  if (input !== undefined && stream !== undefined) throw invalidContent(expected, 'has both "input" and "stream"');
  const last = input ?? stream;
  return {
    steps: steps.map((step, index) => checkPiece(step, `steps[${index}]`, expected)),
    ...(last !== undefined && { input: checkPiece(last, input === undefined ? "stream" : "input", expected) }),
  };
}
