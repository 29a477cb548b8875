/** @file Shape rules that several ops share. */
import type { GraphBuilder, Dim, Value } from "../builder.js";

/** The broadcast of two shapes by ONNX's rules; throws if they do not fit. */
export function broadcastShapes(graph: GraphBuilder, opType: string, a: Value, b: Value): Dim[] {
  const rank = Math.max(a.shape.length, b.shape.length);
  return Array.from({ length: rank }, (_, i) => {
    const left = a.shape[i - rank + a.shape.length] ?? 1;
    const right = b.shape[i - rank + b.shape.length] ?? 1;
    if (left === right || right === 1) return left;
    if (left === 1) return right;
    throw graph.shapeError(opType, `cannot broadcast axis ${i - rank}: ${left} against ${right}`, [a, b]);
  });
}

/** `axis` counted from the front; throws if the value has no such axis. */
export function resolveAxis(graph: GraphBuilder, opType: string, value: Value, axis: number): number {
  const resolved = axis < 0 ? axis + value.shape.length : axis;
  if (resolved < 0 || resolved >= value.shape.length) throw graph.shapeError(opType, `has no axis ${axis}`, [value]);
  return resolved;
}

/** The size of an axis that must be known when the graph is built. */
export function staticSize(graph: GraphBuilder, opType: string, value: Value, axis: number): number {
  const size = value.shape[resolveAxis(graph, opType, value, axis)];
  if (typeof size !== "number") throw graph.shapeError(opType, `needs a fixed size on axis ${axis}`, [value]);
  return size;
}

/** Throws unless `value` has `rank` axes. */
export function expectRank(graph: GraphBuilder, opType: string, value: Value, rank: number): void {
  if (value.shape.length !== rank) throw graph.shapeError(opType, `needs ${rank} axes`, [value]);
}

/** The size of an axis after concatenating parts of these sizes. */
export function sumDims(dims: readonly Dim[]): Dim {
  const fixed = dims.filter((dim) => typeof dim === "number").reduce((sum, size) => sum + size, 0);
  const symbolic = dims.filter((dim) => typeof dim === "string");
  if (symbolic.length === 0) return fixed;
  return [...symbolic, ...(fixed > 0 ? [fixed] : [])].join(" + ");
}
