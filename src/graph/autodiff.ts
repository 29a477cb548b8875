/** @file Reverse-mode differentiation of a graph: adds the nodes that compute gradients to the graph itself. */
import { PrecisError } from "../errors.js";
import type { GraphBuilder, GraphNode, Value } from "./builder.js";
import { ATTENTION_VJPS } from "./ops/attention.js";
import { ELEMENTWISE_VJPS, add, cast } from "./ops/elementwise.js";
import { LINALG_VJPS } from "./ops/linalg.js";
import { MOVEMENT_VJPS } from "./ops/movement.js";
import { NORMALIZATION_VJPS } from "./ops/normalization.js";
import { REDUCTION_VJPS } from "./ops/reduction.js";
import { cutBlocks, emitAgain, removeUnread } from "./recompute.js";
import type { VjpRules } from "./vjp.js";

/** Every op that can be differentiated. */
export const VJP_RULES: VjpRules = {
  ...ELEMENTWISE_VJPS,
  ...REDUCTION_VJPS,
  ...MOVEMENT_VJPS,
  ...LINALG_VJPS,
  ...NORMALIZATION_VJPS,
  ...ATTENTION_VJPS,
};

/** Ops whose output counts as a constant, unless a node of them brings a rule of its own. */
const CONSTANT_OPS: ReadonlySet<string> = new Set(["Equal", "Floor", "ReduceMax", "Max", "Min"]);

/** Names of values that depend on any of `roots`, through ops that are not constants. */
export function dependents(nodes: readonly GraphNode[], roots: readonly Value[]): Set<string> {
  const names = new Set(roots.map((root) => root.name));
  for (const node of nodes) {
    const constant = CONSTANT_OPS.has(node.opType) && node.vjp === undefined;
    if (constant || !node.inputs.some((input) => names.has(input))) continue;
    // Outputs that are left out have no name.
    for (const output of node.outputs) if (output !== "") names.add(output);
  }
  return names;
}

/** Gradients by the inputs of one node, whose values are read from `copies` where they were computed a second time. */
function pullBack(
  graph: GraphBuilder,
  node: GraphNode,
  gradients: (Value | undefined)[],
  active: ReadonlySet<string>,
  copies: ReadonlyMap<string, Value>,
): (Value | undefined)[] {
  const rule = node.vjp ?? VJP_RULES[node.opType];
  const [gradient] = gradients.filter((value) => value !== undefined);
  if (rule === undefined || gradient === undefined) {
    throw new PrecisError(
      "GRAPH_INVALID",
      `Graph "${graph.name}": ${node.name} (${node.opType}) cannot be differentiated.`,
      {
        value: node.opType,
        nextStep: "Build the graph in its primitive form, or add a vector-Jacobian product beside the op.",
      },
    );
  }
  const current = (value: Value | undefined): Value | undefined => value && (copies.get(value.name) ?? value);
  const outputs = node.outputValues.map(current);
  return rule({
    graph,
    node,
    inputs: node.inputValues.map(current),
    gradients,
    gradient,
    output: outputs[0] as Value,
    outputs,
    needs: (input) => active.has(node.inputs[input] ?? ""),
  });
}

/** The sum of two gradients of one value; as float32 if only one of them is. */
function sum(graph: GraphBuilder, a: Value, b: Value): Value {
  return a.dtype === b.dtype ? add(graph, a, b) : add(graph, cast(graph, a, "float32"), cast(graph, b, "float32"));
}

/** Settings of {@link differentiate}. */
export interface DifferentiateOptions {
  /**
   * Values in the order in which they are computed, such as the hidden states between layers. What lies between two of
   * them is computed a second time in the backward pass instead of being kept.
   */
  checkpoints?: readonly Value[];
}

/**
 * Adds nodes that compute the gradients of `loss`, a scalar, by each of `parameters`. Work is done only where a parameter
 * lies upstream: frozen weights cost nothing. A gradient by half floats may come out as float32, where it was summed.
 * @throws GRAPH_INVALID naming the first op without a rule, or a parameter that the loss does not depend on
 */
export function differentiate(
  graph: GraphBuilder,
  loss: Value,
  parameters: readonly Value[],
  { checkpoints = [] }: DifferentiateOptions = {},
): Value[] {
  const forward = [...graph.nodes];
  const active = dependents(forward, parameters);
  const gradients = new Map<string, Value>([[loss.name, graph.floats([1], loss.shape as number[])]]);

  const backward = (nodes: readonly GraphNode[], copies: ReadonlyMap<string, Value>): void => {
    for (const node of nodes.toReversed()) {
      const outgoing = node.outputs.map((output) => gradients.get(output));
      const matters = node.outputs.some((output) => active.has(output));
      if (!matters || outgoing.every((gradient) => gradient === undefined)) continue;
      const incoming = graph.scope(node.name, () => pullBack(graph, node, outgoing, active, copies));
      incoming.forEach((gradient, index) => {
        const input = node.inputs[index] ?? "";
        if (gradient === undefined || !active.has(input)) return;
        const known = gradients.get(input);
        gradients.set(input, known === undefined ? gradient : sum(graph, known, gradient));
      });
    }
  };

  graph.scope("gradient", () => {
    const blocks = cutBlocks(graph, forward, checkpoints);
    const inBlock = new Set(blocks.flatMap(({ nodes }) => nodes));
    const firstInBlock = forward.findIndex((node) => inBlock.has(node));
    const before = forward.slice(0, Math.max(0, firstInBlock));
    let last: readonly GraphNode[] = forward.slice(before.length).filter((node) => !inBlock.has(node));
    let known = new Set<Value>();
    const recomputed = new Set<string>();
    backward(last, new Map());
    for (const block of blocks.toReversed()) {
      // What comes out of the nodes just gone through must be there before this block is computed again.
      const inner = new Set(last.flatMap(({ outputs }) => outputs));
      const fresh = [...gradients].flatMap(([name, value]) => (inner.has(name) || known.has(value) ? [] : [value]));
      known = new Set(gradients.values());
      const copies = emitAgain(graph, block, fresh);
      for (const { name } of copies.values()) recomputed.add(name);
      backward(block.nodes, copies);
      last = block.nodes;
    }
    backward(before, new Map());
    removeUnread(graph, recomputed);
  });
  return parameters.map((parameter) => {
    const gradient = gradients.get(parameter.name);
    if (gradient !== undefined) return gradient;
    throw new PrecisError("GRAPH_INVALID", `Graph "${graph.name}": the loss does not depend on ${parameter.name}.`);
  });
}
