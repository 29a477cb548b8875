/** @file Takes an input into a memory, a time step per message. */
import { throwIfAborted, type OperationContext } from "./operation-context.js";
import type { MemoryEntry } from "./memory-entry.js";
import type { EngineOperations, MemoryInfo } from "./protocol.js";

/**
 * Takes an input into a memory for good, step by step: one per message, else one.
 * @returns what the memory holds afterwards
 * @throws INPUT_INVALID, CONTEXT_OVERFLOW, ABORTED; the memory then stays as it was
 */
export async function appendInput(
  entry: MemoryEntry,
  { input, tools }: Pick<EngineOperations["append"][0], "input" | "tools">,
  { interruption, emit }: OperationContext,
): Promise<MemoryInfo["stats"]> {
  const steps = entry.conversation.steps(input, tools);
  const total = steps.reduce((sum, { ids }) => sum + ids.length, 0);
  let done = 0;
  await entry.transact(true, async (session) => {
    for (const { ids, marks } of steps) {
      const before = done;
      await session.append(ids, {
        marks,
        check: () => throwIfAborted(interruption),
        onProgress: (fed) => emit({ type: "prompt-progress", done: before + fed, total }),
      });
      done += ids.length;
    }
    return { ids: steps.flatMap(({ ids }) => ids), result: undefined };
  });
  entry.conversation.remember(
    steps.flatMap(({ messages }) => messages),
    steps.at(-1)?.told,
  );
  return entry.session.stats();
}
