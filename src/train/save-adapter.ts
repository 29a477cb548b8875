/** @file Trained parameters as an adapter in PEFT's format. */
import type { DecoderConfig } from "../models/config.js";
import { projectionSize } from "../models/projections.js";
import { saveAdapter } from "../weights/adapter.js";
import type { LoraPair } from "../weights/lora-pairs.js";
import type { FloatDType } from "../tensor/dtype.js";
import { loraName, type ParameterLayout, type ParameterSpec } from "./parameters.js";

/** What an adapter says of itself. */
export interface AdapterDescription {
  /** alpha of the LoRA; its scale is alpha / rank. */
  alpha: number;
  /** Memory method that it was trained for, and the options to use it with; none for an ordinary LoRA. */
  method?: string;
  methodOptions?: Readonly<Record<string, unknown>>;
  /** Whether its LoRA acts at COMP tokens only; default: wherever there is a method. */
  gated?: boolean;
  /** Fingerprint of the base model. */
  base: string;
  trainingSummary: Readonly<Record<string, unknown>>;
  /** How the LoRA matrices are stored; default float32. */
  dtype?: FloatDType;
}

/** Writes the adapter into a folder. */
export async function saveTrainedAdapter(
  directory: string,
  config: DecoderConfig,
  spec: ParameterSpec,
  layout: ParameterLayout,
  parameters: Float32Array,
  description: AdapterDescription,
): Promise<void> {
  const slices = new Map(layout.slices.map((slice) => [slice.name, slice]));
  const values = (name: string): Float32Array => {
    const slice = slices.get(name);
    return slice === undefined ? new Float32Array(0) : parameters.slice(slice.offset, slice.offset + slice.size);
  };
  const lora = new Map<string, LoraPair>();
  const scale = description.alpha / spec.rank;
  for (let layer = 0; layer < config.layerCount; layer++) {
    for (const target of spec.targets) {
      const [inFeatures, outFeatures] = projectionSize(config, target);
      const a = values(loraName("a", layer, target));
      const b = values(loraName("b", layer, target)).map((value) => value * scale);
      lora.set(`layers.${layer}.${target}`, { a, b, rank: spec.rank, inFeatures, outFeatures });
    }
  }
  const { method, base, alpha, methodOptions, trainingSummary, gated = method !== undefined, dtype } = description;
  const { compTokens } = spec;
  await saveAdapter(
    directory,
    {
      config: {
        r: spec.rank,
        alpha,
        targetModules: [...new Set(spec.targets.map((target) => target.split(".")[1] as string))],
        gated,
        ...(method === undefined
          ? {}
          : { precis: { method, compTokens, gated, options: methodOptions, base, trainingSummary } }),
        raw: {},
      },
      lora,
      ...(compTokens === 0
        ? {}
        : {
            compEmbeddings: {
              data: values("comp_embeddings"),
              count: compTokens,
              hiddenSize: config.hiddenSize,
              ...(spec.summaryGain === true ? { summaryGain: values("summary_log_gain").map(Math.exp) } : {}),
            },
          }),
    },
    { dtype },
  );
}
