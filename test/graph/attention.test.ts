/** @file The attention op against plain loops. */

import { describe, test } from "vitest";

import type { Value } from "#precis/graph/builder.js";
import { attention } from "#precis/graph/ops/attention.js";
import { expectResult, plain, runGraph, type Plain } from "./run-graph.js";

describe("attention", () => {
  const [batch, seq, past, heads, kvHeads, size, scale] = [2, 3, 2, 4, 2, 4, 0.4];
  const total = past + seq;
  const q = plain([batch, seq, heads * size], 1);
  const k = plain([batch, seq, kvHeads * size], 2);
  const v = plain([batch, seq, kvHeads * size], 3);
  const pk = plain([batch, kvHeads, past, size], 4);
  const pv = plain([batch, kvHeads, past, size], 5);
  const bias: Plain = {
    dims: [batch, 1, seq, total],
    // Causal, with a hidden past slot in the second row and a score nudged up in the first.
    data: Array.from({ length: batch * seq * total }, (_, n) => {
      const [b, row, column] = [Math.floor(n / total / seq), Math.floor(n / total) % seq, n % total];
      if (column > past + row || (b === 1 && column === 0)) return -30_000;
      return b === 0 && column === 1 ? 0.7 : 0;
    }),
  };

  function expectedAttention(): { output: number[]; weights: number[] } {
    const output: number[] = Array.from({ length: batch * seq * heads * size }, () => 0);
    const weights: number[] = [];
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < heads; h++) {
        const g = Math.floor(h / (heads / kvHeads));
        const row = (fresh: Plain, old: Plain, j: number, d: number): number =>
          j < past
            ? old.data[((b * kvHeads + g) * past + j) * size + d]
            : fresh.data[(b * seq + j - past) * kvHeads * size + g * size + d];
        for (let i = 0; i < seq; i++) {
          const scores = Array.from({ length: total }, (_, j) => {
            let dot = 0;
            for (let d = 0; d < size; d++)
              dot += q.data[(b * seq + i) * heads * size + h * size + d] * row(k, pk, j, d);
            return Math.exp(dot * scale + bias.data[(b * seq + i) * total + j]);
          });
          const sum = scores.reduce((x, y) => x + y, 0);
          scores.forEach((score, j) => {
            weights.push(score / sum);
            for (let d = 0; d < size; d++) {
              output[(b * seq + i) * heads * size + h * size + d] += (score / sum) * row(v, pv, j, d);
            }
          });
        }
      }
    }
    return { output, weights };
  }

  test("over past and new rows, with shared key heads and a bias", async () => {
    const [output, weights] = await runGraph({ q, k, v, pk, pv, bias }, (graph, values) => {
      const result = attention(graph, {
        queries: values.q,
        keys: values.k,
        values: values.v,
        attentionBias: values.bias,
        pastKeys: values.pk,
        pastValues: values.pv,
        queryHeads: heads,
        kvHeads,
        scale,
        returnWeights: true,
      });
      return result as [Value, Value];
    });
    const expected = expectedAttention();
    expectResult(output, [batch, seq, heads * size], expected.output);
    expectResult(weights, [batch, heads, seq, total], expected.weights);
  });
});
