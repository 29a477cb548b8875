/** @file BLEU-4, ROUGE-L, variety, repetition and similarity against values worked out by hand. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { distinct, repetition } from "#precis/eval/metrics/fluency.js";
import { bleu4, countNgrams, rougeL, wordsOf } from "#precis/eval/metrics/overlap.js";
import { cosine, meanHiddenState } from "#precis/eval/metrics/similarity.js";
import { createFixture, textIds, type Fixture } from "../conformance/fixtures.js";

const CAT = wordsOf("The cat sat on the mat.");

describe("words", () => {
  test("are letters and digits, marks one by one, in lower case", () => {
    expect(wordsOf("Don’t “stop” at 42, Émile!?")).toEqual([
      "don’t",
      "“",
      "stop",
      "”",
      "at",
      "42",
      ",",
      "émile",
      "!",
      "?",
    ]);
    expect(wordsOf(" \n")).toEqual([]);
  });

  test("in runs are counted where they overlap", () => {
    expect([...countNgrams(["a", "a", "a", "b"], 2)]).toEqual([
      ["a a", 2],
      ["a b", 1],
    ]);
    expect(countNgrams(["a"], 2).size).toBe(0);
  });
});

describe("BLEU-4", () => {
  test("is 1 for the reference and 0 without a common word", () => {
    expect(bleu4(CAT, CAT)).toBeCloseTo(1, 12);
    expect(bleu4(wordsOf("dogs bark loudly here"), CAT)).toBe(0);
    expect(bleu4([], CAT)).toBe(0);
    expect(bleu4(CAT, [])).toBe(0);
  });

  test("counts matches up to four words, one more of both beyond single words", () => {
    // the cat the cat on the mat . | the cat sat on the mat .: words 6 of 8 (the 2, cat 1, on, mat, .); pairs 4 + 1 of
    // 7 + 1 (the cat, on the, the mat, mat .); threes 2 + 1 of 6 + 1 (on the mat, the mat .); fours 1 + 1 of 5 + 1.
    const candidate = wordsOf("the cat the cat on the mat.");
    const expected = ((6 / 8) * (5 / 8) * (3 / 7) * (2 / 6)) ** (1 / 4);
    expect(bleu4(candidate, CAT)).toBeCloseTo(expected, 12);
  });

  test("punishes what is too short", () => {
    // 4 of 7 words, all right: precisions 1, penalty exp(1 − 7/4).
    expect(bleu4(CAT.slice(0, 4), CAT)).toBeCloseTo(Math.exp(1 - 7 / 4), 12);
  });
});

describe("ROUGE-L", () => {
  test("is the F1 of the longest common sequence", () => {
    // police kill the gunman | police killed the gunman: police, the, gunman in order, 3 of 4 and 3 of 4.
    expect(rougeL(wordsOf("police kill the gunman"), wordsOf("police killed the gunman"))).toBeCloseTo(0.75, 12);
    // the gunman kill police: the gunman is the longest, 2 of 4.
    expect(rougeL(wordsOf("the gunman kill police"), wordsOf("police killed the gunman"))).toBeCloseTo(0.5, 12);
    // 2 of 2 words are in order among 6: P = 1, R = 1/3.
    expect(rougeL(["a", "f"], ["a", "b", "c", "d", "e", "f"])).toBeCloseTo(0.5, 12);
    expect(rougeL(CAT, CAT)).toBe(1);
    expect(rougeL([], CAT)).toBe(0);
    expect(rougeL(["x"], CAT)).toBe(0);
  });
});

describe("fluency", () => {
  test("variety is the share of different runs, repetition that of runs of four seen before", () => {
    expect(distinct(["a", "b", "a", "b"], 2)).toBeCloseTo(2 / 3, 12);
    expect(distinct(["a"], 2)).toBe(1);
    // a b c d, b c d a, c d a b, d a b c, a b c d: one of five came before.
    expect(repetition(["a", "b", "c", "d", "a", "b", "c", "d"])).toBeCloseTo(1 / 5, 12);
    expect(repetition(CAT)).toBe(0);
  });
});

describe("similarity", () => {
  let fixture: Fixture;
  beforeAll(async () => {
    fixture = await createFixture();
  });
  afterAll(() => fixture[Symbol.asyncDispose]());

  test("is the cosine", () => {
    expect(cosine(Float32Array.of(1, 2, 2), Float32Array.of(2, 1, 2))).toBeCloseTo(8 / 9, 6);
    expect(cosine(Float32Array.of(1, 0), Float32Array.of(0, 3))).toBe(0);
    expect(cosine(Float32Array.of(0, 0), Float32Array.of(1, 1))).toBe(0);
  });

  test("is of the mean of the last hidden states, without what begins the text", async () => {
    const { model } = fixture;
    const [begin, ids] = [[0], textIds(6)];
    const memory = await fixture.memory();
    const tap = `hidden.${model.info.layerCount}`;
    const { taps } = await memory.forward([...begin, ...ids], { taps: [tap] });
    const { hiddenSize } = model.info;
    const { data } = taps[tap] ?? expect.fail();
    const mean = await meanHiddenState(model, ids, begin);
    for (let i = 0; i < hiddenSize; i++) {
      const column = ids.map((_, token) => data[(token + 1) * hiddenSize + i]);
      expect(mean[i]).toBeCloseTo(column.reduce((sum, value) => sum + value, 0) / ids.length, 5);
    }
    expect(cosine(mean, await meanHiddenState(model, ids, begin))).toBeCloseTo(1, 6);
  });
});
