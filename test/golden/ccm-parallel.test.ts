/** @file The masked parallel pass of the ONNX decoder against the authors' training forward. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { KvRow } from "#precis/cache/kv-row.js";
import type { ForwardResult } from "#precis/runtime/decoder-runner.js";
import type { SequenceInput } from "#precis/runtime/sequence-input.js";
import { LoadedAdapter } from "#precis/runtime/loaded-adapter.js";
import { LoadedModel } from "#precis/runtime/loaded-model.js";
import { attends } from "#precis/train/attention-mask.js";
import { padLayouts } from "#precis/train/padded-batch.js";
import type { ParallelLayout } from "#precis/train/parallel-layout.js";
import { loadAdapter } from "#precis/weights/adapter.js";
import { convertGoldenAdapter } from "../reference/random-model.js";
import { GOLDEN_MODES, goldenLayouts } from "./ccm.js";
import { difference, headRows, rowsOf } from "./compare.js";
import { goldenDirectory, goldenFloats, readGolden } from "./golden.js";
import { dense } from "../reference/dense-batch.js";

const VOCAB = 256;
const LOGITS_TOLERANCE = 2e-4;
const MEMORY_TOLERANCE = 1e-4;
const directory = goldenDirectory("ccm");

/** Averaging weights [batch, seq, seq] of right-padded layouts; rows that are not averaged keep themselves. */
function averagingOf(layouts: readonly ParallelLayout[]): Float32Array | undefined {
  const { averaging, sumMask, seq } = dense(padLayouts(layouts, { side: "right" }));
  if (averaging === undefined) return undefined;
  sumMask.forEach((isSum, row) => {
    if (isSum === 0) averaging[row * seq + (row % seq)] = 1;
  });
  return averaging;
}

describe.skipIf(directory === undefined)("one parallel pass equals the authors' forward", () => {
  const folder = directory as string;
  const golden = directory === undefined ? new Map() : readGolden(join(folder, "golden.safetensors"));
  const scratch = mkdtempSync(join(tmpdir(), "precis-golden-parallel-"));
  let model: LoadedModel;
  let adapter: LoadedAdapter;
  let past: KvRow;
  beforeAll(async () => {
    const hooks = { signal: new AbortController().signal, onProgress: () => undefined };
    model = await LoadedModel.load(folder, { dtype: "fp32", device: "cpu" }, hooks);
    const { directory: files } = convertGoldenAdapter(join(scratch, "adapter"));
    const loaded = await loadAdapter(files, { fingerprint: model.info.fingerprint, hiddenSize: 64 });
    // The adapter on disk leaves out the embeddings of SUM tokens, which the parallel pass needs to exist.
    const data = goldenFloats(readGolden(join(folder, "adapter.safetensors")), "comp_embeddings");
    adapter = new LoadedAdapter({ ...loaded, compEmbeddings: { data, count: 4, hiddenSize: 64 } });
    await model.runner.enableLora(adapter.targets);
    past = new KvRow(model.runner.shape);
  });
  afterAll(async () => {
    await model.dispose();
    rmSync(scratch, { recursive: true });
  });

  function forward(layouts: readonly ParallelLayout[], taps: readonly string[] = []): Promise<ForwardResult> {
    const batch = layouts.map((layout): SequenceInput => ({
      past,
      ids: [...layout.inputIds],
      positions: [...layout.positionIds],
      gate: [...layout.gate],
      visible: (query, key) => attends(layout, query, key),
    }));
    return model.runner.forward(batch, { logits: "all", adapter, averaging: averagingOf(layouts), taps });
  }

  test.each(GOLDEN_MODES)("%s: logits, one by one and as a batch", async (mode) => {
    const layouts = goldenLayouts(folder, mode);
    const expected = goldenFloats(golden, `${mode}.logits`);
    const seq = expected.length / 2 / VOCAB;
    const batched = (await forward(layouts)).logits;
    let offset = 0;
    for (const [b, layout] of layouts.entries()) {
      // The reference pads on the left.
      const rows = rowsOf(expected, VOCAB, (b + 1) * seq - layout.seq, (b + 1) * seq);
      const alone = (await forward([layout])).logits;
      expect(difference(alone, rows)).toBeLessThan(LOGITS_TOLERANCE);
      expect(difference(batched.subarray(offset, offset + rows.length), rows)).toBeLessThan(LOGITS_TOLERANCE);
      offset += rows.length;
    }
  });

  test.each(["concat_recur", "merge_recur"])("%s: keys, values and hidden states", async (mode) => {
    for (const [b, layout] of goldenLayouts(folder, mode).entries()) {
      const names = [0, 1, 2, 3].map((layer) => `hidden.${layer}`);
      const output = await forward([layout], names);
      const [layers, , , heads, seq, size] = golden.get(`${mode}.kv`)!.shape as number[];
      const kv = goldenFloats(golden, `${mode}.kv`);
      for (let layer = 0; layer < layers; layer++) {
        for (const [part, rows] of [output.keys[layer], output.values[layer]].entries()) {
          const all = rowsOf(kv, heads * seq * size, (layer * 2 + part) * 2 + b, (layer * 2 + part) * 2 + b + 1);
          const expected = headRows(all, [heads, seq, size], seq - layout.seq, seq);
          // New rows come out as [seq, heads · size]; heads of one row each make that [heads, seq, size].
          const actual = Float32Array.from(expected, (_, at) => {
            const [head, row] = [Math.floor(at / size / layout.seq), Math.floor(at / size) % layout.seq];
            return rows[(row * heads + head) * size + (at % size)];
          });
          expect(difference(actual, expected)).toBeLessThan(MEMORY_TOLERANCE);
        }
      }
      const hidden = goldenFloats(golden, `${mode}.hidden`);
      for (const [depth, name] of names.entries()) {
        const end = (depth * 2 + b + 1) * seq;
        const expected = rowsOf(hidden, 64, end - layout.seq, end);
        expect(difference(output.taps[name].data, expected)).toBeLessThan(LOGITS_TOLERANCE);
      }
    }
  });
});
