/** @file RoPE frequencies of every scaling scheme against their published formulas, and rotation of cached keys. */

import { fc } from "../property.js";
import { describe, expect, test } from "vitest";

import { ConfigReader } from "#precis/models/config.js";
import { readRotary, rotaryConfig, rotaryTable, rotateKey, type RotaryConfig } from "#precis/models/rotary.js";

const THETA = 10_000;
const HEAD_DIM = 16;
const plain = (theta = THETA, dim = HEAD_DIM): number[] =>
  Array.from({ length: dim / 2 }, (_, i) => 1 / theta ** ((2 * i) / dim));

function expectFrequencies({ inverseFrequencies }: RotaryConfig, expected: readonly number[]): void {
  expect(inverseFrequencies).toHaveLength(expected.length);
  expected.forEach((frequency, i) => expect(inverseFrequencies[i] / frequency).toBeCloseTo(1, 10));
}

describe("frequencies", () => {
  test("default", () => {
    const config = rotaryConfig({}, HEAD_DIM, 512);
    expectFrequencies(config, plain());
    expect(config.attentionFactor).toBe(1);
    expectFrequencies(rotaryConfig({ rope_theta: 5e5 }, HEAD_DIM, 512), plain(5e5));
  });

  test("only the first part of each head turns where partial_rotary_factor says so", () => {
    expectFrequencies(rotaryConfig({ partial_rotary_factor: 0.75 }, HEAD_DIM, 512), plain(THETA, 12));
  });

  test("linear", () => {
    const config = rotaryConfig({ rope_type: "linear", factor: 4 }, HEAD_DIM, 512);
    expectFrequencies(
      config,
      plain().map((frequency) => frequency / 4),
    );
  });

  test("llama3", () => {
    const parameters = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
    const config = rotaryConfig({ rope_type: "llama3", ...parameters }, HEAD_DIM, 512);
    // Hugging Face's statement of it, by wavelength.
    const [lowWavelength, highWavelength] = [64 / 1, 64 / 4];
    const expected = plain().map((frequency) => {
      const wavelength = (2 * Math.PI) / frequency;
      if (wavelength < highWavelength) return frequency;
      if (wavelength > lowWavelength) return frequency / 8;
      const smooth = (64 / wavelength - 1) / (4 - 1);
      return (1 - smooth) * (frequency / 8) + smooth * frequency;
    });
    expectFrequencies(config, expected);
    // All three branches occur.
    const ratios = expected.map((frequency, i) => plain()[i] / frequency);
    expect(ratios[0]).toBe(1);
    expect(ratios.some((ratio) => ratio > 1.01 && ratio < 7.99)).toBe(true);
    expect(ratios.at(-1)).toBeCloseTo(8, 10);
  });

  test("yarn", () => {
    const parameters = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 256 };
    const config = rotaryConfig(parameters, HEAD_DIM, 1024);
    // Pairs that turn more than 32 times within 256 positions are kept, those that turn less than once are stretched.
    const dimension = (turns: number): number =>
      (HEAD_DIM * Math.log(256 / (turns * 2 * Math.PI))) / (2 * Math.log(THETA));
    const [low, high] = [Math.floor(dimension(32)), Math.ceil(dimension(1))].map((at) => Math.max(0, at));
    const expected = plain().map((frequency, i) => {
      const stretched = Math.min(1, Math.max(0, (i - low) / (high - low)));
      return (stretched * frequency) / 4 + (1 - stretched) * frequency;
    });
    expectFrequencies(config, expected);
    expect([low, high]).toEqual([0, 4]);
    expect(config.attentionFactor).toBeCloseTo(0.1 * Math.log(4) + 1, 12);
  });

  test("yarn with mscale, as DeepSeek writes it", () => {
    const parameters = { rope_type: "yarn", factor: 40, original_max_position_embeddings: 4096 };
    const config = rotaryConfig({ ...parameters, mscale: 1, mscale_all_dim: 0.5 }, HEAD_DIM, 163_840);
    const growth = (mscale: number): number => 0.1 * mscale * Math.log(40) + 1;
    expect(config.attentionFactor).toBeCloseTo(growth(1) / growth(0.5), 12);
    expect(rotaryConfig({ ...parameters, attention_factor: 1.25 }, HEAD_DIM, 163_840).attentionFactor).toBe(1.25);
  });

  test("longrope, by its short factors up to the original length", () => {
    const short = [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7];
    const raw = {
      max_position_embeddings: 131_072,
      original_max_position_embeddings: 4096,
      rope_theta: THETA,
      rope_scaling: { type: "longrope", short_factor: short, long_factor: short.map((factor) => factor * 9) },
    };
    const config = readRotary(new ConfigReader(raw), HEAD_DIM);
    expectFrequencies(
      config,
      plain().map((frequency, i) => frequency / short[i]),
    );
    expect(config.attentionFactor).toBeCloseTo(Math.sqrt(1 + Math.log(32) / Math.log(4096)), 12);
    expect(config.maxPositions).toBe(4096);
  });

  test("an unknown scheme, and numbers that are missing, are refused by name", () => {
    expect(() => rotaryConfig({ rope_type: "spiral" }, HEAD_DIM, 512)).toThrow(/"spiral".*linear, llama3, yarn/);
    expect(() => rotaryConfig({ rope_type: "linear" }, HEAD_DIM, 512)).toThrow(/"factor" must be a number/);
    expect(() => rotaryConfig({ rope_type: "longrope", short_factor: [1] }, HEAD_DIM, 512)).toThrow(/short_factor/);
  });
});

describe("rotation", () => {
  const config = rotaryConfig({}, HEAD_DIM, 512);

  test("tables hold cosines and sines, exact far out", () => {
    const { cos, sin } = rotaryTable(rotaryConfig({ rope_type: "yarn", factor: 4 }, HEAD_DIM, 512), [0, 3, 1e6]);
    const factor = 0.1 * Math.log(4) + 1;
    expect(cos.subarray(0, 8)).toEqual(new Float32Array(8).fill(factor));
    expect(sin.subarray(0, 8)).toEqual(new Float32Array(8));
    expect(cos[8]).toBeCloseTo(Math.cos(3) * factor, 6);
    expect(sin[16]).toBeCloseTo(Math.sin(1e6) * factor, 6);
  });

  test("turning a key there and back, or in two steps, is the same as not or at once", () => {
    const values = fc.array(fc.float({ min: -4, max: 4, noNaN: true }), { minLength: 16, maxLength: 16 });
    const step = fc.integer({ min: -5000, max: 5000 });
    fc.assert(
      fc.property(values, step, step, (key, first, second) => {
        const [twice, once] = [Float32Array.from([9, ...key]), Float32Array.from([9, ...key])];
        rotateKey(config, twice, 1, first);
        rotateKey(config, twice, 1, second);
        rotateKey(config, once, 1, first + second);
        once.forEach((value, i) => expect(twice[i]).toBeCloseTo(value, 4));
        rotateKey(config, once, 1, -first - second);
        key.forEach((value, i) => expect(once[i + 1]).toBeCloseTo(value, 4));
        expect(once[0]).toBe(9);
      }),
    );
  });
});
