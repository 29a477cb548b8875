/** @file What the chosen method means for training: layout of samples, memory to be used with, what is trained. */
import { PrecisError } from "../../errors.js";
import type { LoraTarget } from "../../models/decoder-io.js";
import type { BaseModel } from "../../train/base-model.js";
import { compTokenIds, sumTokenIds } from "../../train/parallel-mode.js";
import type { LayoutMode } from "../../train/batches.js";
import { streamRoom, type StreamShape } from "../../train/stream-layout.js";
import { isTextMode } from "../../train/text-layout.js";
import { SENTINEL_TOKENS } from "../../sentinel/sentinel-tokens.js";
import type { TrainFlags } from "./flags.js";

/** Tokens of a block of plain text unless told otherwise. */
const BLOCK_TOKENS = 256;

/** What a method means for training. */
export interface TrainingMode {
  /** How samples are laid out. */
  mode: LayoutMode;
  /** The memory method that the adapter is for; none for an ordinary LoRA. */
  memoryMethod: string | undefined;
  /** New input tokens. */
  newTokens: number;
  /** Whether the LoRA acts at the new tokens only. */
  gated: boolean;
  /** Rank of the LoRA unless told otherwise. */
  rank: number;
  /** Recurrent summaries: trained segment by segment, passing on those of all steps or of the last one only. */
  recurrent?: { accumulate: boolean };
}

/** The share of the cache to do without; every sparse method needs it. */
function ratiosOf({ method, ratio }: TrainFlags): readonly [number, number] {
  if (ratio !== undefined) return ratio;
  throw new PrecisError("OPTION_INVALID", `Training ${method} needs --ratio.`, {
    nextStep: "Give one share, as --ratio 0.5, or a range, as --ratio 0.1-0.9, for an adapter that serves all of it.",
  });
}

/** Block length of plain text; a block must fit into a row. */
function blockTokensOf({ blockTokens = BLOCK_TOKENS, rowLength }: TrainFlags): number {
  if (blockTokens <= rowLength) return blockTokens;
  throw new PrecisError("OPTION_INVALID", `A row of ${rowLength} tokens has no room for a block of ${blockTokens}.`, {
    value: blockTokens,
    nextStep: "Raise --row-length, or lower --block-tokens.",
  });
}

/** Sizes of a stream's row, as trained unless told otherwise: 160 slots at most, with two COMP tokens. */
export function streamShape(flags: TrainFlags): StreamShape {
  const { window = 157, compress = 32, memory = 16, sink, release, compTokens } = flags;
  return { window, compress, memory, sink: sink ? 1 : 0, release, compTokens };
}

/**
 * Text of a row of streaming: as much as fits, or as told.
 * @throws OPTION_INVALID for too much, or so little that nothing would be read with a memory in sight
 */
function streamTokensOf(flags: TrainFlags, shape: StreamShape, maxPositions: number): number {
  const most = Math.min(streamRoom(flags.rowLength, shape), maxPositions);
  const { blockTokens = most } = flags;
  // The token that overfills the window is still read without a memory, and one more predicts the first label.
  const least = shape.window + 3;
  if (blockTokens >= least && blockTokens <= most) return blockTokens;
  const problem =
    most < least
      ? `A row of ${flags.rowLength} tokens ends before a window of ${shape.window} slots has left anything behind.`
      : `A block must have from ${least} to ${most} tokens of text, not ${blockTokens}.`;
  throw new PrecisError("OPTION_INVALID", problem, {
    value: blockTokens,
    nextStep: "Change --row-length, --window or --block-tokens; COMP tokens need room in the row as well.",
  });
}

/** Methods that can be trained, the memory method that the adapter is for, and how a sample is laid out. */
export function trainingMode(flags: TrainFlags, model: BaseModel): TrainingMode {
  const { recursive, conditional, sink, compTokens, decay } = flags;
  const { vocabSize } = model.config;
  const ids = { vocabSize, padId: model.tokenizer.padId ?? 0, bosId: model.tokenizer.bosId ?? -1 };
  const common = { ...ids, recursive, compTokens, sink };
  const compressing = { newTokens: compTokens, gated: conditional, rank: 8 };
  const onText = { newTokens: 0, gated: false, rank: 16 };
  switch (flags.method) {
    case "ccm-concat":
      return { mode: { ...common, method: "concat" }, memoryMethod: "ccm-concat", ...compressing };
    case "ccm-merge":
      return { mode: { ...common, method: "merge", decay }, memoryMethod: "ccm-merge", ...compressing };
    case "gist":
      return { mode: { ...common, method: "gist" }, memoryMethod: "gist", ...compressing };
    case "streaming-ccm": {
      const shape = streamShape(flags);
      const blockTokens = streamTokensOf(flags, shape, model.config.maxPositions);
      const mode: LayoutMode = { ...ids, ...shape, method: "streaming", blockTokens };
      return { ...compressing, mode, memoryMethod: "streaming-ccm", gated: true, rank: onText.rank };
    }
    case "compressive":
      return {
        mode: { ...common, method: "compressive" },
        memoryMethod: "compressive",
        ...compressing,
        newTokens: 0,
        gated: false,
      };
    case "autocompressor":
    case "rmt": {
      const recurrent = { accumulate: flags.method === "autocompressor" };
      return { ...compressing, mode: { ...ids, method: "full" }, memoryMethod: flags.method, gated: false, recurrent };
    }
    case "sentinel": {
      const { spanWords: longest, placement } = flags;
      const places = { blockTokens: blockTokensOf(flags), ratios: ratiosOf(flags), longest, placement };
      const mode: LayoutMode = { ...ids, method: "sentinel", ...places };
      return { ...onText, mode, memoryMethod: "sentinel", newTokens: SENTINEL_TOKENS };
    }
    case "local":
    case "scattered": {
      const { method } = flags;
      const mode: LayoutMode = { ...ids, method, blockTokens: blockTokensOf(flags), ratios: ratiosOf(flags) };
      return { ...onText, mode, memoryMethod: method };
    }
    case "lora":
      if (flags.blockTokens !== undefined) {
        const mode: LayoutMode = { ...ids, method: "text", blockTokens: blockTokensOf(flags) };
        return { ...onText, mode, memoryMethod: undefined };
      }
      return { ...onText, mode: { ...ids, method: "full" }, memoryMethod: undefined, rank: 8 };
    default:
      throw new PrecisError("METHOD_UNKNOWN", `The method "${flags.method}" cannot be trained.`, {
        value: flags.method,
        nextStep:
          "Use ccm-concat, ccm-merge, gist, streaming-ccm, compressive, autocompressor, rmt, sentinel, local, scattered, or lora (an ordinary LoRA).",
      });
  }
}

/** Options of the memory method that the adapter should be used with. */
export function methodOptions(flags: TrainFlags): Record<string, unknown> {
  const {
    method,
    recursive,
    sink,
    decay,
    maxSteps,
    compTokens,
    spanWords,
    placement,
    ratio: [low, high] = [0, 0],
  } = flags;
  const sinks = { sink: sink ? 1 : 0 };
  switch (method) {
    case "ccm-concat":
      // More slots than training ever showed confuse the model; the oldest then go.
      return { recursive, ...sinks, limit: maxSteps * compTokens };
    case "ccm-merge":
      return { recursive, ...sinks, ...(decay === undefined ? {} : { average: "ema", decay }) };
    case "streaming-ccm": {
      const { compTokens: _adapterKnows, ...sizes } = streamShape(flags);
      return { ...sizes, positions: "text" };
    }
    case "compressive":
      return { recursive, ...sinks, slots: compTokens, limit: maxSteps * compTokens };
    case "autocompressor":
      return { limit: maxSteps * compTokens };
    case "rmt":
      return {};
    case "sentinel":
      return { span: spanWords, ...(placement === "random" ? {} : { policy: placement, ratio: (low + high) / 2 }) };
    case "local":
    case "scattered":
      return { ratio: (low + high) / 2 };
    default:
      return sinks;
  }
}

const ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"];
const MLP = ["gate_proj", "up_proj", "down_proj"];
const TARGET_GROUPS: ReadonlyMap<string, readonly string[]> = new Map([
  ["qkvo", ATTENTION],
  ["mlp", MLP],
  ["all", [...ATTENTION, ...MLP]],
]);

/** The projections that get a LoRA, as the decoder names them, each once and in its order. */
export function loraTargets({ targets }: Pick<TrainFlags, "targets">): LoraTarget[] {
  const names = new Set(targets.split(",").flatMap((name) => TARGET_GROUPS.get(name) ?? [name]));
  const known = [...ATTENTION, ...MLP].filter((name) => names.has(name));
  const others = [...names].filter((name) => !known.includes(name));
  return [...known, ...others].map((name): LoraTarget => {
    const block = MLP.includes(name) ? "mlp" : "self_attn";
    return `${block}.${name}` as LoraTarget;
  });
}

/** Tokens of text that fit into a row beside the COMP and SUM tokens, or summaries, of the longest sample. */
export function textRoom(
  { method, rowLength, maxSteps }: TrainFlags,
  { mode, recurrent, newTokens: own }: TrainingMode,
): number {
  if (isTextMode(mode)) return rowLength;
  // Recurrent samples are not packed, but the same options should mean the same samples.
  const perStep = recurrent === undefined ? compTokenIds(mode).length + sumTokenIds(mode).length : own;
  const newTokens = perStep * (method === "gist" ? 1 : maxSteps);
  if (newTokens < rowLength) return rowLength - newTokens;
  throw new PrecisError(
    "OPTION_INVALID",
    `A row of ${rowLength} tokens has no room for text beside ${newTokens} COMP tokens.`,
    { value: rowLength, nextStep: "Raise --row-length, or lower --max-steps or --comp-tokens." },
  );
}
