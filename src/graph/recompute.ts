/**
 * @file Activation recomputation (Chen et al. 2016): the backward pass computes the inside of a block a second time, so
 * that it need not be kept from the forward pass. Memory then grows with one block and the checkpoints between blocks.
 */
import { PrecisError } from "../errors.js";
import { elementCount } from "../tensor/dtype.js";
import type { GraphBuilder, GraphNode, Value } from "./builder.js";
import { add, cast, scale } from "./ops/elementwise.js";
import { reshape, slice } from "./ops/movement.js";

/** The forward nodes between two checkpoints. */
export interface Block {
  /** The checkpoint that the block starts from; it is kept. */
  input: Value;
  nodes: readonly GraphNode[];
}

/**
 * Cuts a forward pass into the blocks between each checkpoint and the next; what comes before the first checkpoint and
 * after the last one belongs to none.
 * @throws GRAPH_INVALID if a checkpoint is not made by these nodes after the one before it
 */
export function cutBlocks(graph: GraphBuilder, nodes: readonly GraphNode[], checkpoints: readonly Value[]): Block[] {
  const made = checkpoints.map(({ name }) => nodes.findIndex((node) => node.outputs.includes(name)));
  return checkpoints.slice(0, -1).map((input, index) => {
    const [start, end] = [made[index] as number, made[index + 1] as number];
    // Only the first checkpoint may be an input of the graph.
    if (end <= start || (start < 0 && index > 0)) {
      const late = checkpoints[index + 1]?.name;
      throw new PrecisError("GRAPH_INVALID", `Graph "${graph.name}": ${late} is not made after ${input.name}.`);
    }
    return { input, nodes: nodes.slice(start + 1, end + 1) };
  });
}

/**
 * `x` plus a zero that is computed from the first element of each value of `after`. The engine can then neither merge
 * what is computed from the sum with what was computed from `x`, nor compute it before `after` is there.
 */
function tie(graph: GraphBuilder, x: Value, after: readonly Value[]): Value {
  return after.reduce((sum, value) => {
    const flat = reshape(graph, value, [elementCount(value.shape as number[])]);
    return add(graph, sum, scale(graph, cast(graph, slice(graph, flat, 0, 0, 1), x.dtype), 0));
  }, x);
}

/**
 * Emits those nodes of a block a second time that depend on its input.
 * @param after gradients that must be there before the block is computed again
 * @returns the second values by the names of the first
 */
export function emitAgain(graph: GraphBuilder, { input, nodes }: Block, after: readonly Value[]): Map<string, Value> {
  const copies = new Map<string, Value>([[input.name, tie(graph, input, after)]]);
  for (const node of nodes) {
    if (!node.inputs.some((name) => copies.has(name))) continue;
    const inputs = node.inputValues.map((value) => value && (copies.get(value.name) ?? value));
    const { opType, domain, attributes, vjp, outputValues } = node;
    const outputs = graph.node({ opType, domain, attributes, vjp, inputs, outputs: outputValues });
    const firsts = outputValues.filter((value) => value !== undefined);
    firsts.forEach(({ name }, index) => copies.set(name, outputs[index] as Value));
  }
  return copies;
}

/** Takes those of `values` out of the graph that nothing reads: the second ends of blocks, which no gradient asks for. */
export function removeUnread(graph: GraphBuilder, values: ReadonlySet<string>): void {
  const read = new Set(graph.outputs.map(({ name }) => name));
  for (let index = graph.nodes.length - 1; index >= 0; index--) {
    const node = graph.nodes[index] as GraphNode;
    if (node.outputs.every((name) => values.has(name) && !read.has(name))) graph.nodes.splice(index, 1);
    else for (const name of node.inputs) read.add(name);
  }
}
