/** @file What training makes small, as graphs: the negative log-likelihood of labels, and the distance to a teacher. */
import type { GraphBuilder, Value } from "../graph/builder.js";
import { equals, exp, log, mul, scale, sub } from "../graph/ops/elementwise.js";
import { reduceMax, reduceSum } from "../graph/ops/reduction.js";

/** Logits [rows, classes] with the largest of each row at 0, and the log of their summed exponentials [rows, 1]. */
function normalize(graph: GraphBuilder, logits: Value): { shifted: Value; normalizer: Value } {
  const shifted = sub(graph, logits, reduceMax(graph, logits, [1], true));
  return { shifted, normalizer: log(graph, reduceSum(graph, exp(graph, shifted), [1], true)) };
}

/**
 * Σ weight · (−log softmax(logits)[label]).
 * @param logits [labels, vocab]
 * @param ids [labels, 1] float32: exact for any vocabulary below 2²⁴
 * @param weights [labels, 1]; 0 for unused rows
 */
export function crossEntropy(graph: GraphBuilder, logits: Value, ids: Value, weights: Value): Value {
  const vocabSize = logits.shape[1] as number;
  const { shifted, normalizer } = normalize(graph, logits);
  const classes = graph.floats(
    Array.from({ length: vocabSize }, (_, id) => id),
    [1, vocabSize],
  );
  const chosen = reduceSum(graph, mul(graph, shifted, equals(graph, ids, classes)), [1], true);
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
  const logProbabilities = (logits: Value): Value => {
    const { shifted, normalizer } = normalize(
      graph,
      temperature === 1 ? logits : scale(graph, logits, 1 / temperature),
    );
    return sub(graph, shifted, normalizer);
  };
  const wanted = logProbabilities(teacher);
  const distance = mul(graph, exp(graph, wanted), sub(graph, wanted, logProbabilities(student)));
  return reduceSum(graph, mul(graph, weights, reduceSum(graph, distance, [1], true)), [0, 1], false);
}
