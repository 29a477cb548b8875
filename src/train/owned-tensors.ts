/** @file Tensors between two runs: disposed as soon as they have been read, and all of them when something fails. */
import type { Tensor } from "onnxruntime-node";

/** The tensors that a piece of work has to dispose. Those of others, which it only reads, can be handed in as well. */
export class OwnedTensors implements Disposable {
  readonly #tensors = new Set<Tensor>();

  /** Takes a tensor over. */
  own(tensor: Tensor): Tensor {
    this.#tensors.add(tensor);
    return tensor;
  }

  /** Disposes those of these tensors that are still owned. */
  release(...tensors: readonly Tensor[]): void {
    for (const tensor of tensors) if (this.#tensors.delete(tensor)) tensor.dispose();
  }

  /** Hands owned tensors over to the caller. */
  give(...tensors: readonly Tensor[]): void {
    for (const tensor of tensors) this.#tensors.delete(tensor);
  }

  [Symbol.dispose](): void {
    this.release(...this.#tensors);
  }
}
