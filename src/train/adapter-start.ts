/** @file Starting values of a run from an adapter that was trained before. */
import { PrecisError } from "../errors.js";
import type { Adapter } from "../weights/adapter.js";
import { loraName, type ParameterLayout, type ParameterSpec } from "./parameters.js";

function mismatch(adapter: Adapter, difference: string, value: unknown): PrecisError {
  return new PrecisError("ADAPTER_MISMATCH", `The adapter in ${adapter.directory} ${difference}.`, {
    value,
    nextStep: "Set --rank, --targets and --comp-tokens as it was trained, or start without --init-adapter.",
  });
}

/** What the run trains and the adapter lacks, or the other way round; an error names the first of it. */
function checkTargets(adapter: Adapter, layers: number, { targets }: ParameterSpec): void {
  const wanted = new Set<string>();
  for (let layer = 0; layer < layers; layer++) for (const target of targets) wanted.add(`layers.${layer}.${target}`);
  for (const module of wanted)
    if (!adapter.lora.has(module)) throw mismatch(adapter, `has no LoRA on ${module}, which the run trains`, module);
  for (const module of adapter.lora.keys())
    if (!wanted.has(module)) throw mismatch(adapter, `has a LoRA on ${module}, which the run does not train`, module);
}

/**
 * The trained vector of a run that goes on from an adapter: its LoRA and its COMP embeddings.
 * @param adapter loaded for the run's base model
 * @param loraScale alpha / rank of the run; what the LoRA computes stays the same, whatever its own alpha was
 * @throws ADAPTER_MISMATCH naming what differs: rank, a target, or the number of COMP tokens
 */
export function parametersOfAdapter(
  adapter: Adapter,
  layers: number,
  layout: ParameterLayout,
  spec: ParameterSpec,
  loraScale: number,
): Float32Array {
  checkTargets(adapter, layers, spec);
  const count = adapter.compEmbeddings?.count ?? 0;
  if (count !== spec.compTokens) {
    throw mismatch(adapter, `has ${count} COMP tokens, the run ${spec.compTokens}`, count);
  }
  const slices = new Map(layout.slices.map((slice) => [slice.name, slice]));
  const values = new Float32Array(layout.size);
  const write = (name: string, part: Float32Array, factor: number): void => {
    const { offset, size } = slices.get(name) ?? { offset: 0, size: 0 };
    if (part.length !== size) throw mismatch(adapter, `has ${part.length} values for ${name}, the run ${size}`, name);
    part.forEach((value, i) => (values[offset + i] = value * factor));
  };
  for (const [module, { a, b, rank }] of adapter.lora) {
    if (rank !== spec.rank) throw mismatch(adapter, `has rank ${rank}, the run ${spec.rank}`, rank);
    const [, layer = "", ...target] = module.split(".");
    write(loraName("a", Number(layer), target.join(".")), a, 1);
    write(loraName("b", Number(layer), target.join(".")), b, 1 / loraScale);
  }
  if (adapter.compEmbeddings !== undefined) write("comp_embeddings", adapter.compEmbeddings.data, 1);
  const gain = adapter.compEmbeddings?.summaryGain;
  if ((gain !== undefined) !== (spec.summaryGain === true)) {
    throw mismatch(adapter, `${gain === undefined ? "has no" : "has a"} gain of summaries, unlike the run`, undefined);
  }
  if (gain !== undefined) write("summary_log_gain", gain.map(Math.log), 1);
  return values;
}
