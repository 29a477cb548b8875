/** @file Answers an input: reads it, decodes with the others that are being answered, and leaves the memory complete. */
import { performance } from "node:perf_hooks";
import type { MemorySession } from "../memory/session.js";
import type { ChatMessage } from "../text/chat-template.js";
import { toolSetup } from "../tools/tool.js";
import type { ReadInput } from "./conversation.js";
import type { DecodeLoop } from "./decode-loop.js";
import { Generation } from "./generation.js";
import type { LoadedModel } from "./loaded-model.js";
import type { MemoryEntry } from "./memory-entry.js";
import { throwIfAborted, type OperationContext } from "./operation-context.js";
import type { EngineOperations, GenerationEvent } from "./protocol.js";

/** What answers inputs: a model, and the loop that decodes all of its answers together. */
export interface Answerer {
  model: LoadedModel;
  decodeLoop: DecodeLoop;
}

/**
 * Reads an input, decodes the answer, and feeds what the answer still lacks; its parts and its end are events.
 * @throws INPUT_INVALID, OPTION_INVALID, SCHEMA_UNSUPPORTED, CONTEXT_OVERFLOW, ABORTED; the memory then stays as it was
 */
export async function answerInput(
  { model, decodeLoop }: Answerer,
  entry: MemoryEntry,
  { input, options }: Pick<EngineOperations["generate"][0], "input" | "options">,
  { interruption, emit }: OperationContext,
): Promise<undefined> {
  const setup = toolSetup(options.tools, options.toolChoice, options.parallelToolCalls);
  const asked = entry.conversation.prompt(input, setup?.tools);
  const { ids, messages, marks } = asked;
  const remember = options.remember ?? true;
  const finish = await entry.transact(remember, async (session) => {
    const generation = new Generation(model, session, ids, { ...options, setup }, interruption, emit);
    const startedAt = performance.now();
    await session.feed(ids, {
      purpose: "input",
      logits: "last",
      marks,
      onLogits: (logits) => generation.accept(logits),
      check: () => throwIfAborted(interruption),
      onProgress: (done, total) => emit({ type: "prompt-progress", done, total }),
    });
    const promptMs = performance.now() - startedAt;
    if (generation.finished === undefined) await decodeLoop.run(generation);
    const generateMs = generation.elapsedMs;
    const fed = await closeAnswer(entry, session, generation, asked, remember);
    const timings = { promptTokens: ids.length, promptMs, generatedTokens: generation.tokenIds.length, generateMs };
    return { ids: [...ids, ...fed], result: { generation, timings, stats: session.stats() } };
  });
  const { generation, timings, stats } = finish;
  if (remember) {
    entry.conversation.remember(messages.length > 0 ? [...messages, reply(generation.rawText)] : [], asked.told);
  }
  const reason = generation.finished as NonNullable<typeof generation.finished>;
  const event: GenerationEvent = {
    type: "finish",
    reason,
    text: generation.text,
    toolCalls: generation.toolCalls,
    tokenIds: generation.tokenIds,
    timings,
    stats,
  };
  emit(event);
  return undefined;
}

/** Feeds what the answer still lacks and ends the step. @returns the tokens fed since the prompt */
async function closeAnswer(
  entry: MemoryEntry,
  session: MemorySession,
  generation: Generation,
  asked: ReadInput,
  remember: boolean,
): Promise<number[]> {
  if (!remember) return [];
  // An answer that ended at a chosen token never ran it; the others ended when its successor was due, so it was run.
  const answered = session.openIds.length;
  const missing = generation.endsUnread ? generation.tokenIds.slice(-1) : [];
  const closing = asked.messages.length > 0 ? entry.conversation.closing(asked, generation.rawText) : [];
  await session.feed([...missing, ...closing], { purpose: "input", logits: "none" });
  const fed = [...generation.tokenIds, ...closing];
  if (answered > 0) await session.closeStep();
  return fed;
}

function reply(content: string): ChatMessage {
  return { role: "assistant", content };
}
