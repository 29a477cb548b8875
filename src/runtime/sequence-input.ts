/** @file What a run is given of one sequence: a cached past and new tokens. */
import type { KvRow } from "../cache/kv-row.js";
import type { DecoderConfig } from "../models/config.js";
import type { LoadedAdapter } from "./loaded-adapter.js";

/** One sequence to run: its cached past and its new tokens. */
export interface SequenceInput {
  past: KvRow;
  /** Token ids; vocabSize + k stands for the adapter's COMP embedding k, or row k of `embeddings`. */
  ids: readonly number[];
  /** [rows, hidden] in place of the adapter's COMP embeddings. */
  embeddings?: Float32Array;
  positions: readonly number[];
  /** 1 where the adapter's LoRA acts, per token; default: nowhere. */
  gate?: readonly number[];
  /** Further restriction on attention; see {@link attentionBias}. */
  visible?: (query: number, key: number) => boolean;
}

/** Which tokens of a sequence get logits: none, the last one, all, or those at these places. */
export type Picks = "none" | "last" | "all" | readonly number[];

/** Tokens of a sequence that get logits. */
export function pickedTokens({ ids }: SequenceInput, picks: Picks): readonly number[] {
  if (picks === "none") return [];
  if (picks === "last") return [ids.length - 1];
  return picks === "all" ? [...ids.keys()] : picks;
}

/**
 * The adapter of a run, if it acts on any of its tokens or embeds one. Where it does not, it makes no difference, so that
 * runs of several adapters can be one.
 */
export function actingAdapter(
  { ids, gate, embeddings }: SequenceInput,
  adapter: LoadedAdapter | undefined,
  { vocabSize }: Pick<DecoderConfig, "vocabSize">,
): LoadedAdapter | undefined {
  if (adapter === undefined || (gate?.some((open) => open !== 0) ?? false)) return adapter;
  return embeddings === undefined && ids.some((id) => id >= vocabSize) ? adapter : undefined;
}
