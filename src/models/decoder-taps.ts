/** @file Inner tensors of a decoder that a method asks for by name, as outputs of its graph. */
import { PrecisError } from "../errors.js";
import type { GraphBuilder, Value } from "../graph/builder.js";

/** The inner tensors asked for; declares each an output when the decoder comes to it. */
export class DecoderTaps {
  readonly #graph: GraphBuilder;
  readonly #layerCount: number;
  readonly #wanted: ReadonlySet<string>;
  readonly #missing: Set<string>;

  /** @param names see `taps` of the decoder's options */
  constructor(graph: GraphBuilder, layerCount: number, names: readonly string[] | undefined) {
    this.#graph = graph;
    this.#layerCount = layerCount;
    this.#wanted = new Set(names);
    this.#missing = new Set(names);
  }

  /** Whether a tensor is asked for. */
  has(name: string): boolean {
    return this.#wanted.has(name);
  }

  /** Declares `value` an output, if it is asked for under this name. */
  tap(name: string, value: Value): void {
    if (!this.#wanted.has(name)) return;
    this.#graph.output(value, name);
    this.#missing.delete(name);
  }

  /**
   * Checks, once all layers are emitted, that each tensor asked for was among them.
   * @throws OPTION_INVALID
   */
  refuseUnknown(): void {
    const [unknown] = this.#missing;
    if (unknown === undefined) return;
    throw new PrecisError("OPTION_INVALID", `The decoder has no inner tensor "${unknown}".`, {
      value: unknown,
      nextStep: `Use hidden.N (0 to ${this.#layerCount}), queries.N, attention.N or attention_mean.N (0 to ${this.#layerCount - 1}).`,
    });
  }
}
