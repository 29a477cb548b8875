/** @file AdamW (Loshchilov and Hutter 2019) over one flat vector, as a graph, with clipping by the global norm. */
import { GraphBuilder, type Value } from "../graph/builder.js";
import { add, div, max, mul, scale, sqrt, sub } from "../graph/ops/elementwise.js";
import { reduceSum } from "../graph/ops/reduction.js";

/** Settings of the optimiser; defaults are the reference's. */
export interface OptimizerOptions {
  /** Default 0.9. */
  beta1?: number;
  /** Default 0.999. */
  beta2?: number;
  /** Default 1e-8. */
  epsilon?: number;
  /** Default 0. */
  weightDecay?: number;
  /** Largest global norm of the gradient. Default 1. */
  clipNorm?: number;
}

/** Names of the optimiser graph's inputs and outputs. */
export const OPTIMIZER_IO = {
  parameters: "parameters",
  gradient: "gradient",
  /** Factor on the gradient, 1 / number of micro-batches that it was summed over. */
  gradientScale: "gradient_scale",
  firstMoment: "first_moment",
  secondMoment: "second_moment",
  learningRate: "learning_rate",
  /** 1 / (1 − beta1^step) */
  correction1: "correction1",
  /** 1 / (1 − beta2^step) */
  correction2: "correction2",
  newParameters: "new_parameters",
  newFirstMoment: "new_first_moment",
  newSecondMoment: "new_second_moment",
  gradientNorm: "gradient_norm",
  /** Losses that were summed with the gradient; they pass through, so that one run brings all numbers of a step back. */
  losses: "losses",
  sameLosses: "same_losses",
} as const;

/** The factors that undo Adam's bias towards zero at `step`, counted from 1. */
export function momentCorrections(step: number, { beta1 = 0.9, beta2 = 0.999 }: OptimizerOptions): [number, number] {
  return [1 / (1 - beta1 ** step), 1 / (1 - beta2 ** step)];
}

/**
 * One AdamW update of a vector of `size` elements.
 * @param losses number of losses that pass through
 */
export function buildOptimizerGraph(size: number, options: OptimizerOptions = {}, losses = 0): GraphBuilder {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0, clipNorm = 1 } = options;
  const graph = new GraphBuilder("adamw", "primitive");
  const vector = (name: string): Value => graph.input(name, "float32", [size]);
  const scalar = (name: string): Value => graph.input(name, "float32", [1]);
  const parameters = vector(OPTIMIZER_IO.parameters);
  const gradient = mul(graph, vector(OPTIMIZER_IO.gradient), scalar(OPTIMIZER_IO.gradientScale));
  const [first, second] = [vector(OPTIMIZER_IO.firstMoment), vector(OPTIMIZER_IO.secondMoment)];
  const learningRate = scalar(OPTIMIZER_IO.learningRate);
  const norm = sqrt(graph, reduceSum(graph, mul(graph, gradient, gradient), [0], true));
  // Dividing by max(norm, clip) / clip leaves short gradients as they are.
  const clipped = div(graph, gradient, scale(graph, max(graph, norm, graph.floats([clipNorm])), 1 / clipNorm));
  const newFirst = add(graph, scale(graph, first, beta1), scale(graph, clipped, 1 - beta1));
  const newSecond = add(graph, scale(graph, second, beta2), scale(graph, mul(graph, clipped, clipped), 1 - beta2));
  const mean = mul(graph, newFirst, scalar(OPTIMIZER_IO.correction1));
  const variance = mul(graph, newSecond, scalar(OPTIMIZER_IO.correction2));
  const direction = div(graph, mean, add(graph, sqrt(graph, variance), graph.floats([epsilon], [])));
  const update = weightDecay === 0 ? direction : add(graph, direction, scale(graph, parameters, weightDecay));
  graph.output(sub(graph, parameters, mul(graph, learningRate, update)), OPTIMIZER_IO.newParameters);
  graph.output(newFirst, OPTIMIZER_IO.newFirstMoment);
  graph.output(newSecond, OPTIMIZER_IO.newSecondMoment);
  graph.output(norm, OPTIMIZER_IO.gradientNorm);
  if (losses > 0) graph.output(graph.input(OPTIMIZER_IO.losses, "float32", [losses]), OPTIMIZER_IO.sameLosses);
  return graph;
}
