/**
 * @file The trained vector cut into tensors. A matrix of the LoRA is taken out of it and turned for all layers at once:
 * done layer by layer, these small nodes are a third of a step's, and each costs the host of a GPU the same.
 */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { cast } from "../graph/ops/elementwise.js";
import { transposeMatrix } from "../graph/ops/linalg.js";
import { concat, reshape, split, zeros } from "../graph/ops/movement.js";
import { matricesOf, type TurnedMatrix } from "../graph/ops/stacked.js";
import type { DecoderConfig } from "../models/config.js";
import type { LoraTarget } from "../models/decoder-io.js";
import type { StackedLora } from "../models/lora.js";
import { projectionSize } from "../models/projections.js";
import type { FloatDType } from "../tensor/dtype.js";
import { loraName, type ParameterLayout, type ParameterSlice } from "./parameters.js";

/** The parts of a trained vector, in the forms that a graph multiplies by. */
export class TrainedTensors {
  readonly #graph: GraphBuilder;
  readonly #config: DecoderConfig;
  /** [layers, ...shape] by the name that a LoRA's matrix has in the first layer. */
  readonly #stacks = new Map<string, Value>();
  readonly #others = new Map<string, Value>();
  readonly #loras = new Map<string, StackedLora[]>();

  /**
   * @param vector [parameters] float32, laid out layer by layer, with what belongs to no layer behind
   * @param dtype type of the LoRA's matrices
   */
  constructor(graph: GraphBuilder, config: DecoderConfig, vector: Value, layout: ParameterLayout, dtype: FloatDType) {
    this.#graph = graph;
    this.#config = config;
    const { layerCount } = config;
    const ofLayers = layout.slices.filter(({ name }) => name.startsWith("lora_"));
    const ofFirst = ofLayers.slice(0, ofLayers.length / layerCount);
    const others = layout.slices.slice(ofLayers.length);
    const total = (slices: readonly ParameterSlice[]): number => slices.reduce((sum, { size }) => sum + size, 0);
    const width = total(ofFirst);
    const head = width === 0 ? [] : [layerCount * width];
    const pieces = split(graph, vector, [...head, ...others.map(({ size }) => size)], 0);
    others.forEach(({ name, shape }, index) =>
      this.#others.set(name, reshape(graph, pieces[head.length + index] as Value, shape)),
    );
    if (width === 0) return;
    const layers = reshape(graph, cast(graph, pieces[0] as Value, dtype), [layerCount, width]);
    const columns = split(
      graph,
      layers,
      ofFirst.map(({ size }) => size),
      1,
    );
    ofFirst.forEach(({ name, shape }, index) =>
      this.#stacks.set(name, reshape(graph, columns[index] as Value, [layerCount, ...shape])),
    );
  }

  /** A tensor that belongs to no layer. */
  get(name: string): Value | undefined {
    return this.#others.get(name);
  }

  /** The matrices of updates of projections of one input; see `trainedLora` of the decoder's options. */
  lora(layer: number, targets: readonly LoraTarget[], outputs?: readonly LoraTarget[]): StackedLora {
    const key = [...targets, "to", ...(outputs ?? [])].join();
    const known = this.#loras.get(key) ?? this.#layLora(targets, outputs);
    this.#loras.set(key, known);
    return known[layer] as StackedLora;
  }

  #layLora(targets: readonly LoraTarget[], outputs: readonly LoraTarget[] | undefined): StackedLora[] {
    const graph = this.#graph;
    const stackOf = (side: "a" | "b", target: LoraTarget): Value =>
      this.#stacks.get(loraName(side, 0, target)) as Value;
    const a = concat(
      graph,
      targets.map((target) => stackOf("a", target)),
      1,
    );
    const turned = targets.map((target) => transposeMatrix(graph, stackOf("b", target)));
    const b = outputs === undefined ? turned : [this.#blocks(targets, turned, outputs)];
    const layersOfA = matricesOf(graph, transposeMatrix(graph, a));
    const layersOfB = b.map((stack) => matricesOf(graph, stack));
    return layersOfA.map((ofA, layer) => ({ a: ofA, b: layersOfB.map((layers) => layers[layer] as TurnedMatrix) }));
  }

  /** [layers, ranks, outputs] with each matrix [layers, rank, out] where its ranks meet its outputs, and zeros elsewhere. */
  #blocks(targets: readonly LoraTarget[], matrices: readonly Value[], outputs: readonly LoraTarget[]): Value {
    const graph = this.#graph;
    const rows = matrices.map((matrix, index) => {
      const [layers, rank] = matrix.shape as number[];
      const parts = outputs.map((output) => {
        const [, width] = projectionSize(this.#config, output);
        return output === targets[index]
          ? matrix
          : zeros(graph, [layers as number, rank as number, width], matrix.dtype);
      });
      return concat(graph, parts, 2);
    });
    return concat(graph, rows, 1);
  }
}
