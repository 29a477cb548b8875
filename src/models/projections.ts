/** @file The matrices of a decoder layer that adapters may change. */
import { PrecisError } from "../errors.js";
import type { DecoderConfig } from "./config.js";

/** [in, out] features of a projection that LoRA may change. */
export function projectionSize(config: DecoderConfig, target: string): [inFeatures: number, outFeatures: number] {
  const { hiddenSize, intermediateSize, queryHeads, kvHeads, headDim } = config;
  const sizes: Record<string, [number, number]> = {
    "self_attn.q_proj": [hiddenSize, queryHeads * headDim],
    "self_attn.k_proj": [hiddenSize, kvHeads * headDim],
    "self_attn.v_proj": [hiddenSize, kvHeads * headDim],
    "self_attn.qkv_proj": [hiddenSize, (queryHeads + 2 * kvHeads) * headDim],
    "self_attn.o_proj": [queryHeads * headDim, hiddenSize],
    "mlp.gate_proj": [hiddenSize, intermediateSize],
    "mlp.up_proj": [hiddenSize, intermediateSize],
    "mlp.gate_up_proj": [hiddenSize, 2 * intermediateSize],
    "mlp.down_proj": [intermediateSize, hiddenSize],
  };
  const size = sizes[target];
  if (size !== undefined) return size;
  throw new PrecisError("ADAPTER_INVALID", `Adapters on "${target}" are not supported.`, {
    value: target,
    nextStep: `Supported targets: ${Object.keys(sizes).join(", ")}.`,
  });
}
