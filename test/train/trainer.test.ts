/** @file Optimiser steps on a tiny model: they learn, and micro-batches add up to large batches. */

import { afterAll, beforeAll, expect, test } from "vitest";

import { padLayouts, type PaddedBatch } from "#precis/train/padded-batch.js";
import { difference } from "../golden/compare.js";
import {
  layoutOf,
  MODES,
  relativeError,
  specFor,
  tinyTraining,
  type PlainSample,
  type TinyTraining,
} from "./tiny-training.js";

const mode = MODES["concat, recursive"];
const SEQ = 24;

/** Pairs of a key and a value, one per time step; then a key, to be answered by its value. */
function recall(number: number): PlainSample {
  const keys = [0, 1, 2].map((i) => 10 + ((number * 3 + i * 5) % 16));
  const values = [0, 1, 2].map((i) => 40 + ((number * 7 + i * 3) % 8));
  const asked = number % 3;
  const chunks = keys.map((key, i) => (i === 0 ? [1, key, values[i]] : [key, values[i]]));
  return { chunks, input: [3, keys[asked]], target: [values[asked]] };
}

function batchOf(first: number, rows: number): PaddedBatch {
  const layouts = Array.from({ length: rows }, (_, i) => layoutOf(recall(first + i), mode));
  return padLayouts(layouts, { length: SEQ });
}

let tiny: TinyTraining;
beforeAll(async () => {
  tiny = await tinyTraining();
});
afterAll(() => tiny[Symbol.asyncDispose]());

test("a few steps make key-value recall easier, also for samples that were not trained on", async () => {
  await using trainer = await tiny.trainer(specFor(mode, 16, SEQ));
  const held = batchOf(1000, 16);
  const before = await trainer.evaluate(held);
  const losses: number[] = [];
  for (let step = 0; step < 30; step++) losses.push((await trainer.takeStep([batchOf(16 * step, 16)], 0.02)).loss);
  const after = await trainer.evaluate(held);
  expect(trainer.step).toBe(30);
  expect(losses[29]).toBeLessThan(0.6 * losses[0]);
  expect(after.loss).toBeLessThan(0.6 * before.loss);
  expect(after.labels).toBe(16);
});

test("evaluation changes nothing", async () => {
  await using trainer = await tiny.trainer(specFor(mode, 2, SEQ));
  const before = await trainer.state();
  const [first, second] = [await trainer.evaluate(batchOf(0, 2)), await trainer.evaluate(batchOf(0, 2))];
  expect(second).toEqual(first);
  expect(await trainer.state()).toEqual(before);
});

test("three micro-batches are one batch of three times the rows", async () => {
  await using small = await tiny.trainer(specFor(mode, 2, SEQ), { weightDecay: 0.01 });
  await using large = await tiny.trainer(specFor(mode, 6, SEQ), { weightDecay: 0.01 });
  for (let step = 0; step < 3; step++) {
    const first = 6 * step;
    const parts = await small.takeStep([batchOf(first, 2), batchOf(first + 2, 2), batchOf(first + 4, 2)], 1e-3);
    const whole = await large.takeStep([batchOf(first, 6)], 1e-3);
    expect(parts.labels).toBe(whole.labels);
    expect(parts.loss).toBeCloseTo(whole.loss, 4);
    expect(parts.gradientNorm / whole.gradientNorm).toBeCloseTo(1, 4);
  }
  const [ours, theirs] = [await small.state(), await large.state()];
  // Moments are linear in the gradient; Adam's quotient blows the rounding of tiny gradients up.
  expect(relativeError(ours.firstMoment, theirs.firstMoment)).toBeLessThan(1e-4);
  expect(relativeError(ours.parameters, theirs.parameters)).toBeLessThan(1e-4);
});

test("the gradient is the mean over micro-batches, not their sum", async () => {
  await using once = await tiny.trainer(specFor(mode, 2, SEQ));
  await using thrice = await tiny.trainer(specFor(mode, 2, SEQ));
  const batch = batchOf(0, 2);
  const [one, three] = [await once.takeStep([batch], 1e-3), await thrice.takeStep([batch, batch, batch], 1e-3)];
  expect(three.gradientNorm).toBeCloseTo(one.gradientNorm, 4);
  expect(three.loss).toBeCloseTo(one.loss, 6);
  expect(three.labels).toBe(3 * one.labels);
});

test("recomputing each layer in the backward pass changes no bit of a step", async () => {
  const states = [];
  for (const recompute of [false, true]) {
    await using trainer = await tiny.trainer(specFor(MODES["merge, recursive"], 2, 32, recompute));
    const layouts = [0, 1].map((number) => layoutOf(recall(number), MODES["merge, recursive"]));
    const batch = padLayouts(layouts, { length: 32 });
    for (let step = 0; step < 2; step++) await trainer.takeStep([batch], 1e-2);
    states.push(await trainer.state());
  }
  expect(states[1]).toEqual(states[0]);
});

test("padding and its side change nothing but rounding", async () => {
  const layouts = [0, 1].map((number) => layoutOf(recall(number), mode));
  const losses: number[] = [];
  for (const [side, length] of [
    ["left", 18],
    ["right", 18],
    ["left", 30],
  ] as const) {
    const passes = await tiny.passes(specFor(mode, 2, length));
    losses.push((await passes.run(padLayouts(layouts, { side, length }))).loss);
    await passes.dispose();
  }
  expect(difference(losses, [losses[0], losses[0], losses[0]])).toBeLessThan(1e-5);
});
