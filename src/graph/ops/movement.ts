/** @file Ops that move elements without computing: reshape, transpose, gather, concatenate, split. */
import type { Dim, GraphBuilder, Value } from "../builder.js";
import { formatShape } from "../builder.js";
import { elementCount, type DType } from "../../tensor/dtype.js";
import type { VjpRules } from "../vjp.js";
import { cast } from "./elementwise.js";
import { unbroadcast } from "./reduction.js";
import { resolveAxis, staticSize, sumDims } from "./shapes.js";

/**
 * `x` in another shape with as many elements. At most one axis of `shape` may be symbolic, unless it stands on the same
 * place as in `x`.
 */
export function reshape(graph: GraphBuilder, x: Value, shape: readonly Dim[]): Value {
  const target = shape.map((dim, axis) => (typeof dim === "number" ? dim : dim === x.shape[axis] ? 0 : -1));
  if (target.filter((size) => size === -1).length > 1) {
    throw graph.shapeError("Reshape", `cannot infer two axes of ${formatShape(shape)}`, [x]);
  }
  const fixed = (dims: readonly Dim[]): number => elementCount(dims.filter((dim) => typeof dim === "number"));
  const symbols = (dims: readonly Dim[]): string =>
    dims
      .filter((dim) => typeof dim === "string")
      .sort()
      .join();
  if (symbols(shape) === symbols(x.shape) && fixed(shape) !== fixed(x.shape)) {
    throw graph.shapeError("Reshape", `element count differs from ${formatShape(shape)}`, [x]);
  }
  return graph.node({
    opType: "Reshape",
    inputs: [x, graph.integers(target)],
    outputs: [{ dtype: x.dtype, shape }],
  })[0] as Value;
}

/** `x` with its axes in another order. Of a transposition of a transposition one is left, or none if they undo each other. */
export function transpose(graph: GraphBuilder, x: Value, order: readonly number[]): Value {
  if ([...order].sort((a, b) => a - b).join() !== x.shape.map((_, axis) => axis).join()) {
    throw graph.shapeError("Transpose", `order ${order.join()} does not name every axis once`, [x]);
  }
  const maker = graph.makerOf(x);
  const earlier =
    maker?.opType === "Transpose" ? (maker.attributes["perm"] as readonly bigint[]).map(Number) : undefined;
  const source = earlier === undefined ? x : (maker?.inputValues[0] as Value);
  const whole = earlier === undefined ? order : order.map((axis) => earlier[axis] as number);
  if (whole.every((axis, place) => axis === place)) return source;
  return graph.node({
    opType: "Transpose",
    inputs: [source],
    attributes: { perm: whole.map(BigInt) },
    outputs: [{ dtype: x.dtype, shape: order.map((axis) => x.shape[axis] as Dim) }],
  })[0] as Value;
}

/** Rows of `table` chosen along its first axis: [rows, ...rest], [...picked] → [...picked, ...rest] */
export function gatherRows(graph: GraphBuilder, table: Value, indices: Value): Value {
  resolveAxis(graph, "Gather", table, 0);
  return graph.node({
    opType: "Gather",
    inputs: [table, indices],
    attributes: { axis: 0n },
    outputs: [{ dtype: table.dtype, shape: [...indices.shape, ...table.shape.slice(1)] }],
  })[0] as Value;
}

/**
 * {@link gatherRows} of a matrix [rows, columns] that can be differentiated: each row may be picked once, and `inverse`
 * tells, for every row of the table, where it was picked (the number of picks if it was not). So the gradient is a gather
 * as well, which every device does fast, where a scatter is not.
 */
export function pickRows(graph: GraphBuilder, table: Value, indices: Value, inverse: Value): Value {
  const [picks, columns] = [indices.shape[0] as Dim, table.shape[1] as Dim];
  return graph.node({
    opType: "Gather",
    inputs: [table, indices],
    attributes: { axis: 0n },
    outputs: [{ dtype: table.dtype, shape: [picks, columns] }],
    vjp: ({ gradient }) => [
      gatherRows(graph, concat(graph, [gradient, zeros(graph, [1, columns], gradient.dtype)], 0), inverse),
    ],
  })[0] as Value;
}

/** A run of elements along `axis` */
export function slice(graph: GraphBuilder, x: Value, axis: number, start: number, length: number): Value {
  const along = resolveAxis(graph, "Slice", x, axis);
  const size = x.shape[along];
  if (typeof size === "number" && start + length > size) {
    throw graph.shapeError("Slice", `has no ${length} elements from ${start} on along axis ${axis}`, [x]);
  }
  return graph.node({
    opType: "Slice",
    inputs: [x, graph.integers([start]), graph.integers([start + length]), graph.integers([along])],
    outputs: [{ dtype: x.dtype, shape: x.shape.map((dim, i) => (i === along ? length : dim)) }],
    vjp: ({ gradient }) => {
      const left = staticSize(graph, "Slice", x, along) - start - length;
      const none = (count: number): Value[] =>
        count === 0
          ? []
          : [
              zeros(
                graph,
                x.shape.map((dim, i) => (i === along ? count : dim)),
                gradient.dtype,
              ),
            ];
      return [concat(graph, [...none(start), gradient, ...none(left)], along)];
    },
  })[0] as Value;
}

/** The parts one after another along `axis` */
export function concat(graph: GraphBuilder, parts: readonly Value[], axis: number): Value {
  const first = parts[0];
  if (first === undefined) throw graph.shapeError("Concat", "needs a part", []);
  const along = resolveAxis(graph, "Concat", first, axis);
  for (const part of parts) {
    const fits =
      part.shape.length === first.shape.length && part.shape.every((dim, i) => i === along || dim === first.shape[i]);
    if (!fits) throw graph.shapeError("Concat", `parts differ on an axis other than ${along}`, parts);
    if (part.dtype !== first.dtype) {
      throw graph.shapeError("Concat", `mixes ${first.dtype} and ${part.dtype}`, parts);
    }
  }
  const shape = first.shape.map((dim, i) => (i === along ? sumDims(parts.map((part) => part.shape[i] as Dim)) : dim));
  return graph.node({
    opType: "Concat",
    inputs: parts,
    attributes: { axis: BigInt(along) },
    outputs: [{ dtype: first.dtype, shape }],
  })[0] as Value;
}

/** Most outputs of one Split: with its input, as many buffers as a WebGPU kernel may have. */
const MOST_PIECES = 15;

/** The sizes of pieces in as many groups as it takes for one Split each. */
export function pieceGroups(sizes: readonly number[]): number[][] {
  const count = Math.ceil(sizes.length / MOST_PIECES);
  const share = Math.ceil(sizes.length / count);
  return Array.from({ length: count }, (_, i) => sizes.slice(i * share, (i + 1) * share));
}

/** Consecutive pieces of fixed sizes along `axis` */
export function split(graph: GraphBuilder, x: Value, sizes: readonly number[], axis: number): Value[] {
  const along = resolveAxis(graph, "Split", x, axis);
  const total = (parts: readonly number[]): number => parts.reduce((sum, size) => sum + size, 0);
  if (staticSize(graph, "Split", x, along) !== total(sizes)) {
    throw graph.shapeError("Split", `pieces ${sizes.join(" + ")} do not fill axis ${axis}`, [x]);
  }
  if (sizes.length === 1) return [x];
  const groups = pieceGroups(sizes);
  if (groups.length > 1) {
    const parts = split(graph, x, groups.map(total), along);
    return parts.flatMap((part, i) => split(graph, part, groups[i] as number[], along));
  }
  return graph.node({
    opType: "Split",
    inputs: [x, graph.integers(sizes)],
    attributes: { axis: BigInt(along) },
    outputs: sizes.map((size) => ({ dtype: x.dtype, shape: x.shape.map((dim, i) => (i === along ? size : dim)) })),
  });
}

/** `x` repeated along axes of size 1 until it has `shape` */
export function expand(graph: GraphBuilder, x: Value, shape: readonly Dim[]): Value {
  if (shape.every((dim, axis) => dim === x.shape[axis]) && shape.length === x.shape.length) return x;
  const sizes = shape.map((dim) => {
    if (typeof dim === "number") return dim;
    throw graph.shapeError("Expand", `needs a shape known at build time, not ${formatShape(shape)}`, [x]);
  });
  return graph.node({
    opType: "Expand",
    inputs: [x, graph.integers(sizes)],
    outputs: [{ dtype: x.dtype, shape }],
  })[0] as Value;
}

/** A tensor of zeros */
export function zeros(graph: GraphBuilder, shape: readonly Dim[], dtype: DType): Value {
  return expand(graph, graph.floats([0], [], dtype), shape);
}

/** Gradients of movements. */
export const MOVEMENT_VJPS: VjpRules = {
  Reshape: ({ graph, inputs: [x], gradient }) => [reshape(graph, gradient, (x as Value).shape)],
  Expand: ({ graph, inputs: [x], gradient }) => [unbroadcast(graph, gradient, x as Value)],
  Transpose: ({ graph, node, gradient }) => {
    const order = (node.attributes["perm"] as readonly bigint[]).map(Number);
    return [
      transpose(
        graph,
        gradient,
        order.map((_, axis) => order.indexOf(axis)),
      ),
    ];
  },
  Concat: ({ graph, node, inputs, gradient }) => {
    const axis = Number(node.attributes["axis"]);
    const sizes = inputs.map((part) => staticSize(graph, "Concat", part as Value, axis));
    return split(graph, gradient, sizes, axis);
  },
  Split: ({ graph, node, gradients }) => {
    const known = gradients.filter((gradient) => gradient !== undefined);
    // Some may have been summed as float32.
    const dtype = known.some((gradient) => gradient.dtype === "float32") ? "float32" : (known[0] as Value).dtype;
    const pieces = node.outputValues.map((piece, i) => {
      const gradient = gradients[i];
      return gradient === undefined ? zeros(graph, (piece as Value).shape, dtype) : cast(graph, gradient, dtype);
    });
    return [concat(graph, pieces, Number(node.attributes["axis"]))];
  },
};
