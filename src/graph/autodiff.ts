/** @file Reverse-mode differentiation of a graph: adds the nodes that compute gradients to the graph itself. */
import { PrecisError } from "../errors.js";
import type { GraphBuilder, GraphNode, Value } from "./builder.js";
import { ATTENTION_VJPS } from "./ops/attention.js";
import { ELEMENTWISE_VJPS, add } from "./ops/elementwise.js";
import { LINALG_VJPS } from "./ops/linalg.js";
import { MOVEMENT_VJPS } from "./ops/movement.js";
import { NORMALIZATION_VJPS } from "./ops/normalization.js";
import { REDUCTION_VJPS } from "./ops/reduction.js";
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

/** Ops whose output counts as a constant. */
const CONSTANT_OPS: ReadonlySet<string> = new Set(["Equal", "ReduceMax", "Max", "Min"]);

/** Names of values that depend on any of `roots`, through ops that are not constants. */
export function dependents(nodes: readonly GraphNode[], roots: readonly Value[]): Set<string> {
  const names = new Set(roots.map((root) => root.name));
  for (const node of nodes) {
    if (CONSTANT_OPS.has(node.opType) || !node.inputs.some((input) => names.has(input))) continue;
    for (const output of node.outputs) names.add(output);
  }
  return names;
}

function pullBack(
  graph: GraphBuilder,
  node: GraphNode,
  gradients: (Value | undefined)[],
  active: ReadonlySet<string>,
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
  return rule({
    graph,
    node,
    inputs: node.inputValues,
    gradients,
    gradient,
    output: node.outputValues[0] as Value,
    needs: (input) => active.has(node.inputs[input] ?? ""),
  });
}

/**
 * Adds nodes that compute the gradients of `loss`, a scalar, by each of `parameters`. Work is done only where a parameter
 * lies upstream: frozen weights cost nothing.
 * @throws GRAPH_INVALID naming the first op without a rule, or a parameter that the loss does not depend on
 */
export function differentiate(graph: GraphBuilder, loss: Value, parameters: readonly Value[]): Value[] {
  const forward = [...graph.nodes];
  const active = dependents(forward, parameters);
  const gradients = new Map<string, Value>([[loss.name, graph.floats([1], loss.shape as number[])]]);
  graph.scope("gradient", () => {
    for (const node of forward.reverse()) {
      const outgoing = node.outputs.map((output) => gradients.get(output));
      const matters = node.outputs.some((output) => active.has(output));
      if (!matters || outgoing.every((gradient) => gradient === undefined)) continue;
      const incoming = graph.scope(node.name, () => pullBack(graph, node, outgoing, active));
      incoming.forEach((gradient, index) => {
        const input = node.inputs[index] ?? "";
        if (gradient === undefined || !active.has(input)) return;
        const known = gradients.get(input);
        gradients.set(input, known === undefined ? gradient : add(graph, known, gradient));
      });
    }
  });
  return parameters.map((parameter) => {
    const gradient = gradients.get(parameter.name);
    if (gradient !== undefined) return gradient;
    throw new PrecisError("GRAPH_INVALID", `Graph "${graph.name}": the loss does not depend on ${parameter.name}.`);
  });
}
