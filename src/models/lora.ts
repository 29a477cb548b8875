/** @file The conditional LoRA of CCM (arXiv 2312.03414, section 3.1) in a graph: low-rank updates that a gate lets through. */
import type { Dim, GraphBuilder, Value } from "../graph/builder.js";
import { add, mul } from "../graph/ops/elementwise.js";
import { linear } from "../graph/ops/linalg.js";
import { concat, split } from "../graph/ops/movement.js";
import { turnedProduct, type TurnedMatrix } from "../graph/ops/stacked.js";

/** The matrices of one update: `a` [rank, in], `b` [out, rank]. */
export interface LoraMatrices {
  a: Value;
  b: Value;
}

/** One update in its place. */
export interface LoraUpdate extends LoraMatrices {
  /** What it reads, [batch, seq, in]: the input of its projection, or what dropout left of that. */
  input: Value;
}

/** gate · (x Aᵀ) of each update. Of several that read the same, one product over their stacked A: x is read once then. */
function project(graph: GraphBuilder, gate: Value, updates: readonly LoraUpdate[]): Value[] {
  const [first] = updates;
  const gated = (x: Value, a: Value): Value => mul(graph, linear(graph, x, a), gate);
  const ranks = updates.map(({ a }) => a.shape[0] as Dim).filter((rank) => typeof rank === "number");
  const shared = updates.every(({ input }) => input === first?.input) && ranks.length === updates.length;
  if (first === undefined || updates.length === 1 || !shared) return updates.map(({ input, a }) => gated(input, a));
  const stack = concat(
    graph,
    updates.map(({ a }) => a),
    0,
  );
  return split(graph, gated(first.input, stack), ranks, -1);
}

/**
 * base + gate · (x Aᵀ) Bᵀ for projections of one input; an ordinary LoRA is the same with a gate of ones.
 * @param gate [batch, seq, 1]
 * @param bases what each projection gives without its update, [batch, seq, out]
 * @param updates by projection; undefined where it has none
 */
export function addLora(
  graph: GraphBuilder,
  gate: Value,
  bases: readonly Value[],
  updates: readonly (LoraUpdate | undefined)[],
): Value[] {
  const known = updates.filter((update) => update !== undefined);
  const narrow = project(graph, gate, known);
  return bases.map((base, index) => {
    const update = updates[index];
    if (update === undefined) return base;
    return add(graph, base, linear(graph, narrow[known.indexOf(update)] as Value, update.b));
  });
}

/** The trained matrices of projections that read one input. */
export interface StackedLora {
  /** All A at once: [in, ranks] */
  a: TurnedMatrix;
  /** One B for all outputs, [ranks, outputs], zero between a rank and the outputs of others; or one a projection, [rank, out]. */
  b: readonly TurnedMatrix[];
}

/**
 * The same as {@link addLora} for matrices that are laid out for it: one product over all A, and one for each B.
 * @param bases what each B adds to, [batch, seq, outputs]
 */
export function addStackedLora(
  graph: GraphBuilder,
  gate: Value,
  input: Value,
  { a, b }: StackedLora,
  bases: readonly Value[],
): Value[] {
  const narrow = mul(graph, turnedProduct(graph, input, a), gate);
  const ranks = b.map(({ turned }) => Number(turned.shape[1]));
  const pieces = split(graph, narrow, ranks, -1);
  return bases.map((base, index) =>
    add(graph, base, turnedProduct(graph, pieces[index] as Value, b[index] as TurnedMatrix)),
  );
}
