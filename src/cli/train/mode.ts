/** @file What the chosen method means for training: layout of samples, memory to be used with, what is trained. */
import { PrecisError } from "../../errors.js";
import type { LoraTarget } from "../../models/decoder.js";
import type { BaseModel } from "../../train/base-model.js";
import type { ParallelMode } from "../../train/parallel-layout.js";
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
    case "lora":
      return { mode: { ...ids, method: "full" }, memoryMethod: undefined };
    default:
      throw new PrecisError("METHOD_UNKNOWN", `The method "${flags.method}" cannot be trained.`, {
        value: flags.method,
        nextStep: "Use ccm-concat, ccm-merge, gist, or lora (an ordinary LoRA with full context).",
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

/** Tokens of text that fit into a row beside the COMP tokens of the longest sample; merging doubles those. */
export function textRoom({ method, rowLength, maxSteps }: TrainFlags, compTokens: number): number {
  const newTokens = compTokens * (method === "gist" ? 1 : maxSteps) * (method === "ccm-merge" ? 2 : 1);
  if (newTokens < rowLength) return rowLength - newTokens;
  throw new PrecisError(
    "OPTION_INVALID",
    `A row of ${rowLength} tokens has no room for text beside ${newTokens} COMP tokens.`,
    { value: rowLength, nextStep: "Raise --row-length, or lower --max-steps or --comp-tokens." },
  );
}
