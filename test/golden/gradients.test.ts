/** @file Losses and gradients of the training graph against the authors' code. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { storedWeights } from "#precis/models/decoder-weights.js";
import type { LoraTarget } from "#precis/models/decoder-io.js";
import { readDecoderConfig } from "#precis/models/registry.js";
import { EngineSession, floatTensor } from "#precis/runtime/engine-session.js";
import { causalBlocks } from "#precis/train/causal-blocks.js";
import { layoutParameters } from "#precis/train/parameters.js";
import { padLayouts } from "#precis/train/padded-batch.js";
import { batchLabels, trainingFeeds } from "#precis/train/training-batch.js";
import { buildTrainingGraph, TRAINING_IO, type TrainingGraphSpec } from "#precis/train/training-graph.js";
import { openCheckpoint } from "#precis/weights/checkpoint.js";
import { goldenLayouts } from "./ccm.js";
import { goldenDirectory, goldenFloats, goldenNumbers, readGolden, type GoldenTensor } from "./golden.js";

const directory = goldenDirectory("ccm");
const TARGETS: LoraTarget[] = ["q", "k", "v", "o"].map((name): LoraTarget => `self_attn.${name}_proj`);
const PARAMETERS = { rank: 8, targets: TARGETS, compTokens: 2 };
const LOSS_TOLERANCE = 1e-4;
const GRADIENT_TOLERANCE = 1e-3;
const HALF_LOSS_TOLERANCE = 5e-3;
const HALF_GRADIENT_TOLERANCE = 0.045;

/** The golden name of a slice: `lora_a.0.self_attn.q_proj` is `layers.0.q_proj.lora_A` there. */
function goldenName(slice: string): string {
  const match = /^lora_([ab])\.(\d+)\.self_attn\.(\w+)$/.exec(slice);
  return match === null ? slice : `layers.${match[2]}.${match[3]}.lora_${match[1].toUpperCase()}`;
}

/** A golden tensor cut to the size of a slice: only the embeddings have more rows there, those of SUM tokens. */
function goldenSlice(tensors: Map<string, GoldenTensor>, name: string, size: number): Float32Array {
  return goldenFloats(tensors, name).subarray(0, size);
}

/** ‖a − b‖ / ‖b‖. Queries of COMP tokens in the last layer have no effect: there both are zero. */
function relativeError(a: Float32Array, b: Float32Array): number {
  const norm = (values: Float32Array): number => Math.hypot(...values);
  return norm(a.map((value, i) => value - b[i])) / (norm(b) || 1);
}

describe.skipIf(directory === undefined)("gradients of the authors' code", () => {
  const folder = directory as string;
  const golden =
    directory === undefined ? new Map<string, GoldenTensor>() : readGolden(join(folder, "golden.safetensors"));

  /** The golden batch, parameters and graph of a mode. */
  async function prepare(mode: string, changes: Partial<TrainingGraphSpec>) {
    const checkpoint = await openCheckpoint(folder);
    const config = readDecoderConfig(checkpoint.config);
    const layout = layoutParameters(config, PARAMETERS);
    const adapter = readGolden(join(folder, "adapter.safetensors"));
    const vector = new Float32Array(layout.size);
    for (const { name, offset, size } of layout.slices)
      vector.set(goldenSlice(adapter, goldenName(name), size), offset);
    const batch = padLayouts(goldenLayouts(folder, mode));
    const sizes = { batch: batch.batch, seq: batch.seq, labels: 40 };
    const spec = { ...PARAMETERS, ...sizes, loraScale: 2, averaging: mode.startsWith("merge"), ...changes };
    const build = () => buildTrainingGraph(config, storedWeights(config, checkpoint.tensors), layout, spec);
    return { config, layout, vector, batch, spec, build };
  }

  test.each(
    ["concat_recur", "merge_recur", "concat", "merge"].flatMap((mode) =>
      [false, true].flatMap((again) => [1, 2].map((blocks) => [mode, again, blocks] as const)),
    ),
  )("%s, recomputed: %s, attention in causal blocks: %i", async (mode, recompute, blocks) => {
    const { config, layout, vector, batch, spec, build } = await prepare(mode, { recompute, attentionBlocks: blocks });
    expect(causalBlocks(spec.seq, blocks)).toHaveLength(blocks);
    await using session = await EngineSession.create(build, { weightsFolder: folder, device: "cpu" });
    for (const kind of ["target", "input"]) {
      const labels = goldenNumbers(golden, kind === "target" ? `${mode}.labels` : `${mode}.labels_input`);
      const feeds = trainingFeeds(config, batch, spec, batchLabels({ ...batch, labels: Int32Array.from(labels) }));
      feeds[TRAINING_IO.parameters] = floatTensor(vector, [layout.size]);
      feeds[TRAINING_IO.accumulated] = floatTensor(new Float32Array(layout.size), [layout.size]);
      feeds[TRAINING_IO.accumulatedLosses] = floatTensor(new Float32Array(1), [1]);
      const { losses: loss, gradient } = await session.run(feeds, [TRAINING_IO.losses, TRAINING_IO.gradient]);
      const losses = goldenLosses(mode);
      expect(Math.abs(Number(loss.data[0]) - losses[`loss_${kind}`])).toBeLessThan(LOSS_TOLERANCE);
      for (const { name, offset, size } of layout.slices) {
        const ours = (gradient.data as Float32Array).subarray(offset, offset + size);
        const theirs = goldenSlice(golden, `${mode}.grad.${kind}.${goldenName(name)}`, size);
        expect(relativeError(ours, theirs), `${kind}: ${name}`).toBeLessThan(GRADIENT_TOLERANCE);
      }
    }
  });

  test.each(["concat_recur", "merge_recur"])("%s, with half floats: nearly in the same direction", async (mode) => {
    const { config, layout, vector, batch, spec, build } = await prepare(mode, { precision: "fp16" });
    await using session = await EngineSession.create(build, { weightsFolder: folder, device: "cpu" });
    const labels = Int32Array.from(goldenNumbers(golden, `${mode}.labels`));
    const feeds = trainingFeeds(config, batch, spec, batchLabels({ ...batch, labels }));
    feeds[TRAINING_IO.parameters] = floatTensor(vector, [layout.size]);
    feeds[TRAINING_IO.accumulated] = floatTensor(new Float32Array(layout.size), [layout.size]);
    feeds[TRAINING_IO.accumulatedLosses] = floatTensor(new Float32Array(1), [1]);
    feeds[TRAINING_IO.lossScale] = floatTensor(Float32Array.of(2 ** 12), [1]);
    const { losses: loss, gradient } = await session.run(feeds, [TRAINING_IO.losses, TRAINING_IO.gradient]);
    expect(Math.abs(Number(loss.data[0]) - goldenLosses(mode).loss_target)).toBeLessThan(HALF_LOSS_TOLERANCE);
    for (const { name, offset, size } of layout.slices) {
      const ours = (gradient.data as Float32Array).subarray(offset, offset + size);
      const theirs = goldenSlice(golden, `${mode}.grad.target.${goldenName(name)}`, size);
      // Two vectors of equal length at an angle whose cosine is 0.999 differ by 4.5 % of it.
      expect(relativeError(ours, theirs), name).toBeLessThan(HALF_GRADIENT_TOLERANCE);
    }
  });

  /** The losses that the authors' code reports for a mode. */
  function goldenLosses(mode: string): Record<string, number> {
    const text = readFileSync(join(folder, "golden.json"), "utf8");
    const { modes } = JSON.parse(text) as { modes: Record<string, Record<string, number>> };
    return modes[mode];
  }
});
