/**
 * @file What AutoCompressor and RMT share: a step ends with summary tokens, whose last hidden states (after the final
 * norm) become input embeddings in front of the steps that follow.
 *
 * The vectors themselves are not kept: the cache holds their keys and values, which is all that later tokens see of them,
 * and what `stats` counts. Positions are ordinary: summaries from 0 on, then the text, then the summary tokens.
 */
import type { SequenceInput } from "../../runtime/sequence-input.js";
import type { MemorySession } from "../session.js";

/** A run of tokens behind the row, seen by the adapter wherever it is not conditional. */
function following(session: MemorySession, embeddings?: Float32Array): SequenceInput {
  const { row, position, runner } = session;
  const places = Array.from({ length: session.compTokens }, (_, k) => k);
  return {
    past: row,
    ids: places.map((k) => runner.config.vocabSize + k),
    positions: places.map((k) => position + k),
    gate: places.map(() => 1),
    ...(embeddings === undefined ? {} : { embeddings }),
  };
}

/** Runs the summary tokens behind the open step. @returns the new soft prompt, [compTokens, hidden]; the row is unchanged */
async function summarize(session: MemorySession): Promise<Float32Array> {
  const { runner, row, adapter } = session;
  const lastNorm = `hidden.${runner.config.layerCount}`;
  const { taps } = await runner.forward([following(session)], { logits: "none", adapter, taps: [lastNorm] });
  session.peakSlots = Math.max(session.peakSlots, row.length + session.compTokens);
  const gain = adapter?.summaryGain as Float32Array;
  const { data } = taps[lastNorm] as { data: Float32Array };
  return data.map((value, i) => value * (gain[i % gain.length] as number));
}

/**
 * Ends the open step: its summary vectors are computed, its rows go, and the vectors are read as the first tokens of
 * what follows.
 * @param accumulate whether they come after the summaries of earlier steps, or take their place
 */
export async function summarizeOpenStep(session: MemorySession, accumulate: boolean): Promise<void> {
  const { runner, row, adapter } = session;
  const summaries = await summarize(session);
  row.truncate(accumulate ? session.openStart : 0);
  session.position = row.length;
  const input = following(session, summaries);
  const result = await runner.forward([input], { logits: "none", adapter });
  const origins = input.positions.map(() => session.openOrigin);
  row.append(result, 0, 0, input.positions, "memory", origins);
  session.position = row.length;
}
