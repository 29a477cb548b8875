/** @file A random compression adapter: it compresses nothing sensibly, but costs what a trained one does. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomFloats } from "./random.js";
import { writeSafetensors, type StoredTensor } from "./safetensors.js";
import type { DecoderShape } from "./shape.js";

/** COMP tokens per time step, and the rank of the LoRA: the usual sizes for CCM. */
export const COMP_TOKENS = 2;
const RANK = 8;

/** Rank of the LoRA of sentinel adapters, which acts at every token. */
const SENTINEL_RANK = 16;

/** What an adapter is for. */
export type AdapterKind = "ccm-concat" | "sentinel";

/** Writes a PEFT adapter for the attention projections, with embeddings of COMP tokens, into `folder`. */
export function writeAdapter(folder: string, shape: DecoderShape, kind: AdapterKind = "ccm-concat"): void {
  const rank = kind === "sentinel" ? SENTINEL_RANK : RANK;
  const gate = kind === "sentinel" ? { gated: false } : {};
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
        tensor(`${path}.lora_A.weight`, [rank, inFeatures]),
        tensor(`${path}.lora_B.weight`, [outFeatures, rank]),
      ];
    }),
  ).flat();
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: null,
    bias: "none",
    r: rank,
    lora_alpha: 2 * rank,
    target_modules: Object.keys(sizes),
    precis: { method: kind, compTokens: COMP_TOKENS, ...gate },
  };
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config, null, 1));
  writeSafetensors(join(folder, "adapter_model.safetensors"), lora);
  writeSafetensors(join(folder, "comp_embeddings.safetensors"), [tensor("comp_embeddings", [COMP_TOKENS, hidden])]);
}
