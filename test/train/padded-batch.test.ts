/** @file Batches that cannot be padded. What the others hold is tested with the layouts in them, against the oracle. */
import { expect, test } from "vitest";
import { padLayouts } from "#precis/train/padded-batch.js";
import { buildLayout } from "#precis/train/parallel-layout.js";

test("a batch of nothing, or too short a length, is refused", () => {
  const layout = buildLayout(
    { chunks: [[1, 2]], input: [3] },
    { method: "merge", recursive: true, compTokens: 2, sink: false, vocabSize: 20, padId: 0, bosId: 1 },
  );
  expect(() => padLayouts([])).toThrow(expect.objectContaining({ code: "INPUT_INVALID" }));
  expect(() => padLayouts([layout], { length: 3 })).toThrow(expect.objectContaining({ code: "INPUT_INVALID" }));
});
