/** @file What training makes small, as graphs: the negative log-likelihood of labels, and the distance to a teacher. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { add, mul, scale, sub } from "../graph/ops/elementwise.js";
import { logSumExp, reduceSum, rowProduct } from "../graph/ops/reduction.js";

/**
 * Σ weight · (−log softmax(logits)[label]).
 * @param logits [labels, vocab]
 * @param chosen [labels, 1]: of each row the logit of its label
 * @param weights [labels, 1]; 0 for unused rows
 */
export function crossEntropy(graph: GraphBuilder, logits: Value, chosen: Value, weights: Value): Value {
  const { normalizer } = logSumExp(graph, logits);
  return reduceSum(graph, mul(graph, weights, sub(graph, normalizer, chosen)), [0, 1], false);
}

/**
 * Σ weight · KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015), in nats, without the factor T².
 * @param teacher [labels, vocab]; likewise `student`
 * @param weights [labels, 1]; 0 for unused rows
 */
export function distillation(
  graph: GraphBuilder,
  teacher: Value,
  student: Value,
  weights: Value,
  temperature: number,
): Value {
  const heat = (logits: Value): Value => (temperature === 1 ? logits : scale(graph, logits, 1 / temperature));
  const [t, s] = [heat(teacher), heat(student)];
  const wanted = logSumExp(graph, t);
  const offset = sub(graph, logSumExp(graph, s).normalizer, wanted.normalizer);
  // Σ p (log p − log q) with log p = t − normalizer(t) and log q = s − normalizer(s), and p summing to 1.
  const distance = add(graph, rowProduct(graph, wanted.probabilities, sub(graph, t, s)), offset);
  return reduceSum(graph, mul(graph, weights, distance), [0, 1], false);
}
