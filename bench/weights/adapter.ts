/** @file A random compression adapter: it compresses nothing sensibly, but costs what a trained one does. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomFloats } from "./random.js";
import { writeSafetensors, type StoredTensor } from "./safetensors.js";
import type { DecoderShape } from "./shape.js";

/** COMP tokens per time step, and the rank of the LoRA: the usual sizes for CCM. */
export const COMP_TOKENS = 2;
const RANK = 8;

/** Writes a PEFT adapter for the attention projections, with embeddings of COMP tokens, into `folder`. */
export function writeAdapter(folder: string, shape: DecoderShape): void {
  mkdirSync(folder, { recursive: true });
  const { hidden, headDim } = shape;
  const queryWidth = shape.queryHeads * headDim;
  const kvWidth = shape.kvHeads * headDim;
  const sizes: Readonly<Record<string, readonly [number, number]>> = {
    q_proj: [hidden, queryWidth],
    k_proj: [hidden, kvWidth],
    v_proj: [hidden, kvWidth],
    o_proj: [queryWidth, hidden],
  };
  const tensor = (name: string, dims: readonly number[]): StoredTensor => ({
    name,
    dtype: "F32",
    shape: dims,
    bytes: () => randomFloats({ name, shape: dims }),
  });
  const lora = Array.from({ length: shape.layers }, (_, layer) =>
    Object.entries(sizes).flatMap(([module, [inFeatures, outFeatures]]) => {
      const path = `base_model.model.model.layers.${layer}.self_attn.${module}`;
      return [
        tensor(`${path}.lora_A.weight`, [RANK, inFeatures]),
        tensor(`${path}.lora_B.weight`, [outFeatures, RANK]),
      ];
    }),
  ).flat();
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: null,
    bias: "none",
    r: RANK,
    lora_alpha: 2 * RANK,
    target_modules: Object.keys(sizes),
    precis: { method: "ccm-concat", compTokens: COMP_TOKENS },
  };
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config, null, 1));
  writeSafetensors(join(folder, "adapter_model.safetensors"), lora);
  writeSafetensors(join(folder, "comp_embeddings.safetensors"), [tensor("comp_embeddings", [COMP_TOKENS, hidden])]);
}
