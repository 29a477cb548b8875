/** @file Attention from products and a softmax, which can be differentiated and need not see the keys after a token. */
import type { Dim, GraphBuilder, Value } from "../builder.js";
import type { DType } from "../../tensor/dtype.js";
import type { VjpRule } from "../vjp.js";
import type { AttentionSpec } from "./attention.js";
import { add, cast, mul, scale as multiply, sub } from "./elementwise.js";
import { matmul, productGradient, transposeMatrix } from "./linalg.js";
import { concat, reshape, slice, split, transpose } from "./movement.js";
import { reduceSum, softmax } from "./reduction.js";
import { staticSize } from "./shapes.js";

const OP_TYPE = "Attention";

/**
 * `attention` from products and a softmax. Queries that share a key head are stacked, so that each product has one matrix
 * per key head. Half floats are multiplied as they are, and the bias is added to them.
 * @param biases that of the spec, or its causal blocks
 */
export function primitiveAttention(
  graph: GraphBuilder,
  spec: AttentionSpec,
  biases: readonly Value[],
  headDim: number,
): [output: Value, weights?: Value] {
  const { queryHeads, kvHeads } = spec;
  const [batch, seq] = spec.queries.shape as [Dim, Dim];
  const heads = (x: Value, count: number): Value =>
    transpose(graph, reshape(graph, x, [batch, x.shape[1] as Dim, count, headDim]), [0, 2, 1, 3]);
  const withPast = (past: Value | undefined, rows: Value): Value =>
    past === undefined ? rows : concat(graph, [past, rows], 2);
  const queries = heads(spec.queries, queryHeads);
  const keys = transposeMatrix(graph, withPast(spec.pastKeys, heads(spec.keys, kvHeads)));
  const values = withPast(spec.pastValues, heads(spec.values, kvHeads));
  const [perHead, weights] =
    biases.length === 1
      ? attendRows(graph, spec, { queries, keys, values, bias: biases[0] as Value })
      : [attendInBlocks(graph, spec, { queries, keys, values }, biases)];
  const output = reshape(graph, transpose(graph, perHead, [0, 2, 1, 3]), [batch, seq, queryHeads * headDim]);
  return weights === undefined ? [output] : [output, weights];
}

/** Queries with the keys and values that they meet. */
interface RowInputs {
  /** [batch, queryHeads, rows, headDim] */
  queries: Value;
  /** [batch, kvHeads, headDim, keys], turned as the product takes them */
  keys: Value;
  /** [batch, kvHeads, keys, headDim] */
  values: Value;
  /** [batch | 1, heads | 1, rows, keys] */
  bias: Value;
}

/** The output [batch, queryHeads, rows, headDim] of queries cut into blocks, each with the keys up to its end. */
function attendInBlocks(
  graph: GraphBuilder,
  spec: AttentionSpec,
  { queries, keys, values }: Omit<RowInputs, "bias">,
  biases: readonly Value[],
): Value {
  const ends = blockEnds(graph, spec, biases);
  const keysUpTo = prefixes(graph, keys, ends);
  // A gradient by values comes out of its product turned, so it is turned values whose gradients are summed.
  const valuesUpTo = prefixes(graph, transposeMatrix(graph, values), ends);
  const rows = biases.map(({ shape }) => shape[2] as number);
  const outputs = split(graph, queries, rows, 2).map((piece, block) => {
    const [keysOf, valuesOf, bias] = [keysUpTo[block], valuesUpTo[block], biases[block]] as [Value, Value, Value];
    return attendRows(graph, spec, { queries: piece, keys: keysOf, values: turnAgain(graph, valuesOf), bias })[0];
  });
  return concat(graph, outputs, 2);
}

/** The ends of causal blocks, checked against the rest. */
function blockEnds(graph: GraphBuilder, spec: AttentionSpec, biases: readonly Value[]): number[] {
  if (spec.pastKeys !== undefined || spec.returnWeights === true) {
    throw graph.shapeError(OP_TYPE, "has causal blocks neither with a past nor with weights", biases);
  }
  let end = 0;
  const ends = biases.map((bias) => {
    end += staticSize(graph, OP_TYPE, bias, 2);
    if (bias.shape[3] !== end) throw graph.shapeError(OP_TYPE, `block must cover ${end} keys`, [bias]);
    return end;
  });
  if (end !== staticSize(graph, OP_TYPE, spec.queries, 1)) {
    throw graph.shapeError(OP_TYPE, "blocks must cover all queries", [spec.queries, ...biases]);
  }
  return ends;
}

/**
 * The parts of [..., keys] up to each end; the last end is that of all. Each is taken from the next longer one, so that its
 * gradient passes once over that one, not over all keys.
 */
function prefixes(graph: GraphBuilder, x: Value, ends: readonly number[]): Value[] {
  const [, ...shorter] = ends.toReversed();
  const parts = [x];
  for (const end of shorter) parts.unshift(slice(graph, parts[0] as Value, -1, 0, end));
  return parts;
}

/**
 * Like {@link transposeMatrix}, but it does not undo a transposition: all values turned are one, and their gradients are to
 * meet in the turned form, where those of their parts come out of products.
 */
function turnAgain(graph: GraphBuilder, x: Value): Value {
  const [batch, heads, rows, columns] = x.shape as [Dim, Dim, Dim, Dim];
  return graph.node({
    opType: "Transpose",
    inputs: [x],
    attributes: { perm: [0n, 1n, 3n, 2n] },
    outputs: [{ dtype: x.dtype, shape: [batch, heads, columns, rows] }],
  })[0] as Value;
}

/** @returns the output [batch, queryHeads, rows, headDim], and if asked the weights [batch, queryHeads, rows, keys] */
function attendRows(
  graph: GraphBuilder,
  { queryHeads, kvHeads, scale, softmaxType = "float32", returnWeights }: AttentionSpec,
  { queries, keys, values, bias }: RowInputs,
): [output: Value, weights?: Value] {
  const [batch, , rows, headDim] = queries.shape as [Dim, Dim, Dim, Dim];
  const total = values.shape[2] as Dim;
  const group = queryHeads / kvHeads;
  const stacked = typeof rows === "number" ? group * rows : `${group} * ${rows}`;
  const grouped = reshape(graph, queries, [batch, kvHeads, stacked, headDim]);
  const scores = matmul(graph, scale === 1 ? grouped : multiply(graph, grouped, scale), keys);
  const perHeadScores = reshape(graph, scores, [batch, queryHeads, rows, total]);
  // Where the bias is 0, as it is at every key that counts, nothing is rounded once more.
  const biased = cast(graph, add(graph, perHeadScores, bias), softmaxType);
  // The shorter gradient holds only while nothing but the values meets the weights.
  const plain = (x: Value): Value => cast(graph, softmax(graph, x), queries.dtype);
  const weights = returnWeights === true ? plain(biased) : softmaxBefore(graph, biased, queries.dtype);
  const mix = returnWeights === true ? matmul : mixRows;
  const mixed = mix(graph, reshape(graph, weights, [batch, kvHeads, stacked, total]), values);
  const output = reshape(graph, mixed, [batch, queryHeads, rows, headDim]);
  return returnWeights === true ? [output, weights] : [output];
}

/**
 * A softmax that only {@link mixRows} reads, converted to `dtype`. Its gradient is p (g − Σ g p); the g that it is handed
 * has the sum taken off already. Of half floats, the gradient stays one down to the product that made the scores.
 */
function softmaxBefore(graph: GraphBuilder, x: Value, dtype: DType): Value {
  const byScores: VjpRule = ({ gradient, output }) => [mul(graph, gradient, output)];
  const narrow = dtype !== x.dtype;
  const [weights] = graph.node({
    opType: "Softmax",
    inputs: [x],
    attributes: { axis: -1n },
    outputs: [x],
    // The wide weights are then not needed a second time.
    vjp: narrow ? ({ gradient }) => [gradient] : byScores,
  });
  return narrow ? cast(graph, weights as Value, dtype, byScores) : (weights as Value);
}

/**
 * weights · values. With G the gradient of the output O, that of the weights is G valuesᵀ; Σ over a row of it times the
 * weights is Σ G O, a sum over one head's elements instead of one over all keys (Dao et al. 2022, appendix B.4).
 */
function mixRows(graph: GraphBuilder, weights: Value, values: Value): Value {
  return graph.node({
    opType: "MatMul",
    inputs: [weights, values],
    outputs: [{ dtype: weights.dtype, shape: [...weights.shape.slice(0, -1), values.shape[3] as Dim] }],
    vjp: ({ inputs, output, gradient, needs }) => {
      const [p, v] = inputs as [Value, Value];
      const byWeights = (): Value => {
        const products = cast(graph, mul(graph, gradient, output), "float32");
        const sums = cast(graph, reduceSum(graph, products, [-1], true), p.dtype);
        return sub(graph, matmul(graph, gradient, transposeMatrix(graph, v)), sums);
      };
      return [needs(0) ? byWeights() : undefined, needs(1) ? productGradient(graph, p, gradient, v) : undefined];
    },
  })[0] as Value;
}
