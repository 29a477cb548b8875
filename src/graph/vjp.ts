/** @file What a vector-Jacobian product is: the backward half of an op, kept beside its emission. */
import type { GraphBuilder, GraphNode, Value } from "./builder.js";

/** What a rule is given: the node, the gradients of its outputs, and which inputs are asked for. */
export interface VjpCall {
  graph: GraphBuilder;
  node: GraphNode;
  /** Inputs of the node; omitted optional ones are undefined. */
  inputs: readonly (Value | undefined)[];
  /** Gradients of the loss by each output; undefined where an output does not matter. */
  gradients: readonly (Value | undefined)[];
  /** Gradient of the loss by the first output. */
  gradient: Value;
  /** The first output itself. */
  output: Value;
  /** All outputs; omitted ones are undefined. */
  outputs: readonly (Value | undefined)[];
  /** Whether the gradient by an input is wanted; rules skip the work for the others. */
  needs: (input: number) => boolean;
}

/** Gradients by the inputs of one node; undefined where none is needed or none exists. */
export type VjpRule = (call: VjpCall) => (Value | undefined)[];

/** Rules by op type. */
export type VjpRules = Readonly<Record<string, VjpRule>>;
