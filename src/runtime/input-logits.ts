/** @file The logits of an input after a memory, and what they say of the input itself. */
import { PrecisError } from "../errors.js";
import type { FeedOptions } from "../memory/session.js";
import type { LoadedModel } from "./loaded-model.js";
import type { MemoryEntry } from "./memory-entry.js";
import { throwIfAborted, type OperationContext } from "./operation-context.js";
import type { EngineOperations, ForwardOutput, MemoryInput } from "./protocol.js";
import { logProbability } from "./sampler.js";

/**
 * Runs an input and hands over its logits and taps.
 * @throws INPUT_INVALID, also for taps of an input with marks; CONTEXT_OVERFLOW, ABORTED
 */
export async function inputLogits(
  { info }: LoadedModel,
  entry: MemoryEntry,
  { input, logits: which, taps }: Pick<EngineOperations["forward"][0], "input" | "logits" | "taps">,
  { interruption }: OperationContext,
): Promise<ForwardOutput> {
  const { ids, marks } = entry.conversation.prompt(input);
  const { vocabSize } = info;
  if (taps.length > 0) {
    if (marks.length > 0) {
      throw new PrecisError("INPUT_INVALID", "Taps come from one pass, in which no span can be compressed.", {
        nextStep: "Leave the marks out, or append what is marked first.",
      });
    }
    // Taps come from one pass, so that their axes are those of the whole input.
    const session = entry.session.fork();
    const result = await session.runner.forward([session.nextInput(ids, "input")], {
      logits: which,
      adapter: session.textAdapter,
      taps,
    });
    return { logits: result.logits, tokens: result.logits.length / vocabSize, vocabSize, taps: result.taps, ids };
  }
  const tokens = which === "all" ? ids.length : 1;
  const logits = new Float32Array(tokens * vocabSize);
  const onLogits: FeedOptions["onLogits"] = (part, start) => logits.set(part, which === "all" ? start * vocabSize : 0);
  await entry.transact(false, async (session) => {
    const check = (): void => throwIfAborted(interruption);
    await session.feed(ids, { purpose: "input", logits: which, marks, onLogits, check });
    return { ids, result: undefined };
  });
  return { logits, tokens, vocabSize, taps: {}, ids };
}

/**
 * Takes an input into a memory, which stays in its open step.
 * @returns [tokens - 1]: how unlikely each token but the first is after those before it, in nats
 * @throws INPUT_INVALID, CONTEXT_OVERFLOW, ABORTED; the memory then stays as it was
 */
export async function scoreInput(
  { info }: LoadedModel,
  entry: MemoryEntry,
  input: MemoryInput,
  { interruption, emit }: OperationContext,
): Promise<Float32Array> {
  const { ids, marks } = entry.conversation.prompt(input);
  const { vocabSize } = info;
  const nll = new Float32Array(ids.length - 1);
  await entry.transact(true, async (session) => {
    await session.feed(ids, {
      purpose: "input",
      logits: "all",
      marks,
      check: () => throwIfAborted(interruption),
      onProgress: (done, total) => emit({ type: "prompt-progress", done, total }),
      onLogits: (logits, start) => {
        for (let token = 0; token * vocabSize < logits.length; token++) {
          const next = ids[start + token + 1];
          if (next === undefined) break;
          nll[start + token] = -logProbability(logits.subarray(token * vocabSize, (token + 1) * vocabSize), next);
        }
      },
    });
    return { ids, result: undefined };
  });
  entry.conversation.remember([]);
  return nll;
}
