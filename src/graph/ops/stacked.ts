/**
 * @file Trained matrices of all layers in one tensor. They are turned, and their gradients summed, for all layers together:
 * layer by layer these are many small kernels, and each costs the host of a GPU as much as a large one.
 */
import type { GraphBuilder, Value } from "../builder.js";
import type { VjpRule } from "../vjp.js";
import { cast } from "./elementwise.js";
import { asMatrix, matmul, paysInParts, transposeMatrix } from "./linalg.js";
import { concat, pieceGroups, reshape, split, zeros } from "./movement.js";
import { unbroadcast } from "./reduction.js";
import { staticSize } from "./shapes.js";

/** A trained matrix, and the same turned for the way back, so that no node of a pass has to turn it. */
export interface TurnedMatrix {
  /** [in, out]; the gradient goes to it alone */
  matrix: Value;
  /** [out, in] */
  turned: Value;
}

/** x · matrix: [..., in] → [..., out], for a matrix of {@link matricesOf}. */
export function turnedProduct(graph: GraphBuilder, x: Value, { matrix, turned }: TurnedMatrix): Value {
  const shape = [...x.shape.slice(0, -1), staticSize(graph, "MatMul", matrix, -1)];
  return graph.node({
    opType: "MatMul",
    inputs: [x, matrix],
    outputs: [{ dtype: x.dtype, shape }],
    vjp: ({ inputs, gradient, needs }) => [
      needs(0) ? matmul(graph, gradient, turned) : undefined,
      needs(1) ? gradientParts(graph, inputs[0] as Value, gradient) : undefined,
    ],
  })[0] as Value;
}

/** The matrices of a stack [layers, in, out], and the same turned. */
export function matricesOf(graph: GraphBuilder, stack: Value): TurnedMatrix[] {
  const turned = layersOf(graph, transposeMatrix(graph, stack));
  return layersOf(graph, stack).map((matrix, layer) => ({ matrix, turned: turned[layer] as Value }));
}

/**
 * The gradient of a matrix that x was multiplied by, in parts that are yet to be summed: [parts, in, out], or where less
 * has to be turned so [parts, out, in].
 */
function gradientParts(graph: GraphBuilder, x: Value, gradient: Value): Value {
  const [inner, outer] = [staticSize(graph, "MatMul", x, -1), staticSize(graph, "MatMul", gradient, -1)];
  const inParts = x.shape.length === 3 && paysInParts(staticSize(graph, "MatMul", x, -2), inner, outer);
  const rows = (value: Value): Value => {
    if (inParts) return value;
    const matrix = asMatrix(graph, value);
    return reshape(graph, matrix, [1, ...matrix.shape]);
  };
  const [left, right] = inner <= outer ? [x, gradient] : [gradient, x];
  return matmul(graph, transposeMatrix(graph, rows(left)), rows(right));
}

/** The layers of a stack, each as a matrix. */
function layersOf(graph: GraphBuilder, stack: Value): Value[] {
  const layers = staticSize(graph, "Split", stack, 0);
  const groups = pieceGroups(Array.from({ length: layers }, () => 1));
  const parts = split(
    graph,
    stack,
    groups.map(({ length }) => length),
    0,
  );
  return parts.flatMap((part) => cutLayers(graph, part));
}

function cutLayers(graph: GraphBuilder, stack: Value): Value[] {
  const [layers, rows, columns] = stack.shape as [number, number, number];
  const joinParts: VjpRule = ({ gradients }) => [sumParts(graph, gradients, stack)];
  // The engine would carry a transposition of the stack past the Split, and do it for each layer; not past a Reshape.
  const [flat] = graph.node({
    opType: "Reshape",
    inputs: [stack, graph.integers([layers, rows * columns])],
    outputs: [{ dtype: stack.dtype, shape: [layers, rows * columns] }],
    vjp: ({ gradient }) => [gradient],
  });
  const pieces = graph.node({
    opType: "Split",
    inputs: [flat, graph.integers(Array.from({ length: layers }, () => 1))],
    attributes: { axis: 0n },
    outputs: Array.from({ length: layers }, () => ({ dtype: stack.dtype, shape: [1, rows * columns] })),
    vjp: joinParts,
  });
  return pieces.map(
    (piece) =>
      graph.node({
        opType: "Reshape",
        inputs: [piece, graph.integers([rows, columns])],
        outputs: [{ dtype: piece.dtype, shape: [rows, columns] }],
        // The parts of the gradient stay apart until those of all layers are there.
        vjp: ({ gradient }) => [gradient],
      })[0] as Value,
  );
}

/** The gradient of a stack from {@link gradientParts} of its layers; layers with as many parts are summed together. */
function sumParts(graph: GraphBuilder, gradients: readonly (Value | undefined)[], stack: Value): Value {
  const [, rows] = stack.shape as [number, number, number];
  const first = gradients.find((gradient) => gradient !== undefined) as Value;
  const none = (): Value => zeros(graph, [1, ...first.shape.slice(1)], first.dtype);
  const runs: Value[][] = [];
  for (const gradient of gradients.map((value) => value ?? none())) {
    const run = runs.at(-1);
    if (run?.[0]?.shape[0] === gradient.shape[0]) run?.push(gradient);
    else runs.push([gradient]);
  }
  const sums = runs.map((run) => {
    const [count, ...matrix] = (run[0] as Value).shape as [number, number, number];
    const together = reshape(graph, concat(graph, run, 0), [run.length, count, ...matrix]);
    const summed = unbroadcast(graph, together, { ...together, shape: [run.length, 1, ...matrix] });
    return cast(graph, reshape(graph, summed, [run.length, ...matrix]), "float32");
  });
  const whole = concat(graph, sums, 0);
  return whole.shape[1] === rows ? whole : transposeMatrix(graph, whole);
}
