/** @file How much attention an input, or the answer to it, pays to each slot of a memory. */
import { PrecisError } from "../errors.js";
import type { Span } from "../sentinel/sentinel-tokens.js";
import type { MemorySession } from "./session.js";
import { slotsOf, type MemoryAttention } from "./slots.js";

/** What is read. */
export interface AttentionInput {
  ids: readonly number[];
  marks: readonly Span[];
  /** Token ids of an answer. Those that chose them are then counted: the last token of `ids`, and all of these but the last. */
  answer?: readonly number[] | undefined;
}

/**
 * Reads input and answer on a copy of the session, run by run as they are always read, and adds up the weights that fall
 * on slots that were there before. Slots that a method drops or merges meanwhile get nothing from then on.
 * @param check called before each run; throws to stop
 * @throws INPUT_INVALID for an empty input or answer; CONTEXT_OVERFLOW
 */
export async function attentionPaid(
  session: MemorySession,
  { ids, marks, answer }: AttentionInput,
  check: () => void,
): Promise<MemoryAttention> {
  if (ids.length === 0 || answer?.length === 0) {
    const what = ids.length === 0 ? "input" : "answer";
    throw new PrecisError("INPUT_INVALID", `The ${what} is empty, so nothing pays attention.`, {
      nextStep: "Pass some text, or leave the answer out.",
    });
  }
  const { layerCount } = session.runner.config;
  const reader = session.fork();
  const before = reader.row.followSlots();
  const sums = Array.from({ length: layerCount }, () => new Float64Array(before.size));
  const read = [...ids, ...(answer ?? []).slice(0, -1)];
  const first = answer === undefined ? 0 : ids.length - 1;
  await reader.feed(read, {
    purpose: "input",
    logits: "none",
    marks,
    check,
    taps: Array.from({ length: layerCount }, (_, layer) => `attention_mean.${layer}`),
    onTaps: (taps, start) => {
      for (const [layer, sum] of sums.entries()) {
        const { data, dims } = taps[`attention_mean.${layer}`] as { data: Float32Array; dims: readonly number[] };
        const [, tokens = 0, width = 0] = dims;
        for (const [slot, origin] of reader.row.origins.entries()) {
          const index = origin === undefined ? undefined : before.get(origin);
          if (index === undefined) continue;
          for (let token = Math.max(0, first - start); token < tokens; token++) {
            sum[index] = (sum[index] as number) + (data[token * width + slot] as number);
          }
        }
      }
    },
  });
  const tokens = read.length - first;
  const layers = sums.map((sum) => Float32Array.from(sum, (weight) => weight / tokens));
  const own = sums.map((sum) => Math.max(0, 1 - sum.reduce((total, weight) => total + weight, 0) / tokens));
  return { slots: slotsOf(session.row), layers, own, tokens };
}
