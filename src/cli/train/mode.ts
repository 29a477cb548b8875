/** @file What the chosen method means for training: layout of samples, memory to be used with, what is trained. */
import { PrecisError } from "../../errors.js";
import type { LoraTarget } from "../../models/decoder.js";
import type { BaseModel } from "../../train/base-model.js";
import { compTokenIds, sumTokenIds, type ParallelMode } from "../../train/parallel-layout.js";
import type { TrainFlags } from "./flags.js";

/** Methods that can be trained, the memory method that the adapter is for, and how a sample is laid out. */
export function trainingMode(
  flags: TrainFlags,
  model: BaseModel,
): { mode: ParallelMode; memoryMethod: string | undefined } {
  const { recursive, sink, compTokens, decay } = flags;
  const { vocabSize } = model.config;
  const ids = { vocabSize, padId: model.tokenizer.padId ?? 0, bosId: model.tokenizer.bosId ?? -1 };
  const common = { ...ids, recursive, compTokens, sink };
  switch (flags.method) {
    case "ccm-concat":
      return { mode: { ...common, method: "concat" }, memoryMethod: "ccm-concat" };
    case "ccm-merge":
      return { mode: { ...common, method: "merge", decay }, memoryMethod: "ccm-merge" };
    case "gist":
      return { mode: { ...common, method: "gist" }, memoryMethod: "gist" };
    case "compressive":
      return { mode: { ...common, method: "compressive" }, memoryMethod: "compressive" };
    case "lora":
      return { mode: { ...ids, method: "full" }, memoryMethod: undefined };
    default:
      throw new PrecisError("METHOD_UNKNOWN", `The method "${flags.method}" cannot be trained.`, {
        value: flags.method,
        nextStep: "Use ccm-concat, ccm-merge, gist, compressive, or lora (an ordinary LoRA with full context).",
      });
  }
}

/** Options of the memory method that the adapter should be used with. */
export function methodOptions({
  method,
  recursive,
  sink,
  decay,
  maxSteps,
  compTokens,
}: TrainFlags): Record<string, unknown> {
  const sinks = { sink: sink ? 1 : 0 };
  switch (method) {
    case "ccm-concat":
      // More slots than training ever showed confuse the model; the oldest then go.
      return { recursive, ...sinks, limit: maxSteps * compTokens };
    case "ccm-merge":
      return { recursive, ...sinks, ...(decay === undefined ? {} : { average: "ema", decay }) };
    case "compressive":
      return { recursive, ...sinks, slots: compTokens, limit: maxSteps * compTokens };
    default:
      return sinks;
  }
}

/** The projections that get a LoRA, as the decoder names them. */
export function loraTargets({ targets }: TrainFlags): LoraTarget[] {
  return targets.split(",").map((name): LoraTarget => {
    const block = ["gate_proj", "up_proj", "down_proj"].includes(name) ? "mlp" : "self_attn";
    return `${block}.${name}` as LoraTarget;
  });
}

/** Tokens of text that fit into a row beside the COMP and SUM tokens of the longest sample. */
export function textRoom({ method, rowLength, maxSteps }: TrainFlags, mode: ParallelMode): number {
  const perStep = compTokenIds(mode).length + sumTokenIds(mode).length;
  const newTokens = perStep * (method === "gist" ? 1 : maxSteps);
  if (newTokens < rowLength) return rowLength - newTokens;
  throw new PrecisError(
    "OPTION_INVALID",
    `A row of ${rowLength} tokens has no room for text beside ${newTokens} COMP tokens.`,
    { value: rowLength, nextStep: "Raise --row-length, or lower --max-steps or --comp-tokens." },
  );
}
