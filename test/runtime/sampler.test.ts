/** @file Choosing tokens: greedy, by temperature, cut to the likely ones, penalised, reproducible. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { argmax, logProbability, Sampler, type SamplingOptions } from "#precis/runtime/sampler.js";

const LOGITS = Float32Array.from([0.5, 2, -1, 1.5, 0, 1, -3, 1.8]);
const DRAWS = 20_000;

function softmax(logits: ArrayLike<number>, temperature = 1): number[] {
  const weights = Array.from(logits, (logit) => Math.exp(logit / temperature));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** How often each token is drawn. */
function frequencies(options: SamplingOptions, logits = LOGITS): number[] {
  const sampler = new Sampler({ seed: 7, ...options });
  const counts = Array.from(logits, () => 0);
  for (let i = 0; i < DRAWS; i++) counts[sampler.sample(logits).id] += 1;
  return counts.map((count) => count / DRAWS);
}

/** Probabilities of the tokens in `kept` alone. */
function renormalised(probabilities: readonly number[], kept: readonly number[]): number[] {
  const sum = kept.reduce((total, id) => total + probabilities[id], 0);
  return probabilities.map((probability, id) => (kept.includes(id) ? probability / sum : 0));
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  actual.forEach((frequency, id) => {
    // Five standard deviations of a binomial.
    const allowed = 5 * Math.sqrt((expected[id] * (1 - expected[id])) / DRAWS) + 1e-9;
    expect(Math.abs(frequency - expected[id])).toBeLessThanOrEqual(allowed);
  });
}

describe("sampling", () => {
  test("is greedy by default, and takes the first of equals", () => {
    expect(new Sampler({}).sample(LOGITS)).toEqual({ id: 1 });
    expect(new Sampler({}).sample(Float32Array.from([1, 3, 3]))).toEqual({ id: 1 });
  });

  test.each([0.25, 1, 2])("follows the softmax at temperature %f", (temperature) => {
    expectClose(frequencies({ temperature }), softmax(LOGITS, temperature));
  });

  test.each([1, 3, 100])("keeps the %i most likely tokens with topK", (topK) => {
    const kept = [1, 7, 3, 5, 0, 4, 2, 6].slice(0, topK);
    expectClose(frequencies({ temperature: 1, topK }), renormalised(softmax(LOGITS), kept));
  });

  test.each([
    [0, [1]],
    [0.5, [1, 7]],
    [0.9, [1, 7, 3, 5, 0]],
    [1, [0, 1, 2, 3, 4, 5, 6, 7]],
  ])("keeps the most likely tokens that reach topP = %f", (topP, kept) => {
    const sorted = softmax(LOGITS).sort((a, b) => b - a);
    const reached = sorted.slice(0, kept.length).reduce((a, b) => a + b, 0);
    expect(reached).toBeGreaterThanOrEqual(topP - 1e-9);
    expectClose(frequencies({ temperature: 1, topP }), renormalised(softmax(LOGITS), kept));
  });

  test.each([0.1, 0.5, 1])("drops tokens below minP = %f of the most likely", (minP) => {
    const probabilities = softmax(LOGITS);
    const kept = probabilities.flatMap((probability, id) => (probability >= minP * probabilities[1] ? [id] : []));
    expectClose(frequencies({ temperature: 1, minP }), renormalised(probabilities, kept));
  });

  test("combines its filters in order: topK, minP, topP", () => {
    const options = { temperature: 1, topK: 4, minP: 0.5, topP: 0.7 };
    expectClose(frequencies(options), renormalised(softmax(LOGITS), [1, 7]));
  });

  test("penalises what was seen, in the prompt or before", () => {
    const sampler = new Sampler({ repetitionPenalty: 2 }, [1]);
    const chosen = [1, 2, 3, 4].map(() => sampler.sample(LOGITS).id);
    // 1 is halved to 1; then 7, 3 and 5 are chosen and halved in turn.
    expect(chosen).toEqual([7, 3, 1, 1]);
    const negative = new Sampler({ repetitionPenalty: 3 }, [0]);
    expect(negative.sample(Float32Array.from([-1, -2])).id).toBe(1);
  });

  test("does not change the logits it is given", () => {
    const logits = LOGITS.slice();
    new Sampler({ temperature: 1, repetitionPenalty: 2, topK: 2, logprobs: 2 }, [1, 2]).sample(logits);
    expect(logits).toEqual(LOGITS);
  });

  test("repeats itself for the same seed, on every machine", () => {
    const draw = (seed: number): number[] => {
      const sampler = new Sampler({ temperature: 1, seed });
      return Array.from({ length: 12 }, () => sampler.sample(LOGITS).id);
    };
    expect(draw(1)).toEqual(draw(1));
    expect(draw(1)).not.toEqual(draw(2));
    // mulberry32 of 42 begins 0.6011, 0.4483, 0.8525, 0.6697, 0.1748; tokens take their shares of [0, 1) in order.
    expect(draw(42).slice(0, 5)).toEqual([4, 3, 7, 5, 1]);
  });

  test("always picks a token that exists", () => {
    const logit = fc.float({ noNaN: true, noDefaultInfinity: true, min: -80, max: 80 });
    const options = fc.record({
      temperature: fc.double({ min: 0, max: 5, noNaN: true }),
      topK: fc.nat(10),
      topP: fc.double({ min: 0, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(logit, { minLength: 1, maxLength: 9 }), options, (logits, given) => {
        const { id } = new Sampler(given).sample(Float32Array.from(logits));
        expect(id).toBeGreaterThanOrEqual(0);
        expect(id).toBeLessThan(logits.length);
      }),
    );
  });
});

describe("log-probabilities", () => {
  test("are those of the softmax, before temperature and filters", () => {
    const expected = softmax(LOGITS).map(Math.log);
    const sample = new Sampler({ temperature: 0.1, topK: 1, logprobs: 8 }).sample(LOGITS);
    expect(sample.logprob).toBeCloseTo(expected[1], 6);
    expect(sample.top?.map(({ id }) => id)).toEqual([1, 7, 3, 5, 0, 4, 2, 6]);
    sample.top?.forEach(({ id, logprob }) => expect(logprob).toBeCloseTo(expected[id], 6));
    const sum = sample.top?.reduce((total, { logprob }) => total + Math.exp(logprob), 0);
    expect(sum).toBeCloseTo(1, 6);
  });

  test("hold for huge logits", () => {
    expect(logProbability([1000, 999], 0)).toBeCloseTo(-Math.log(1 + Math.exp(-1)), 6);
    expect(logProbability([-1e4, 0], 0)).toBe(-1e4);
    expect(argmax([-5, -1, -1])).toBe(1);
  });

  test("may be asked for without alternatives", () => {
    expect(new Sampler({ logprobs: 0 }).sample(LOGITS)).toMatchObject({ id: 1, top: [] });
  });
});

test.each([
  { temperature: -1 },
  { temperature: Number.NaN },
  { topK: -1 },
  { topP: 1.5 },
  { minP: -0.1 },
  { repetitionPenalty: 0 },
  { logprobs: -1 },
])("refuses %o", (options) => {
  expect(() => new Sampler(options)).toThrow(expect.objectContaining({ code: "OPTION_INVALID" }));
});
