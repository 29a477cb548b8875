/** @file Where slots come from: joined when slots are merged, and kept in few numbers. */
import { describe, expect, test } from "vitest";
import { fc } from "../property.js";
import { joinOrigins, packOrigins, tokenOrigins, unpackOrigins, type SlotOrigin } from "#precis/cache/slot-origin.js";

const origin: fc.Arbitrary<SlotOrigin | undefined> = fc.option(
  fc.tuple(fc.nat(5), fc.nat(2), fc.nat(9), fc.nat(3)).map(([step, steps, token, tokens]) => ({
    firstStep: step + 1,
    lastStep: step + 1 + steps,
    firstToken: token,
    endToken: token + tokens + 1,
  })),
  { nil: undefined },
);

describe("origins", () => {
  test("are packed and unpacked without loss", () => {
    const runs = fc.array(fc.tuple(origin, fc.integer({ min: 1, max: 4 })), { maxLength: 12 });
    fc.assert(
      fc.property(runs, fc.nat(3), (given, tokens) => {
        const origins = [
          ...given.flatMap(([each, count]) => Array.from({ length: count }, () => each)),
          ...tokenOrigins(7, 20, tokens),
        ];
        expect(unpackOrigins(JSON.parse(JSON.stringify(packOrigins(origins))), origins.length)).toEqual(origins);
      }),
    );
  });

  test("of text take a run per step, however long it is", () => {
    const text = [...tokenOrigins(1, 0, 500), ...tokenOrigins(2, 500, 700)];
    expect(packOrigins(text)).toEqual([
      [500, 1, 1, 0, 500, 1],
      [700, 2, 2, 500, 1200, 1],
    ]);
  });

  test("cover all that they are joined of, and are unknown where one of them is", () => {
    const [first, second] = [tokenOrigins(1, 4, 1)[0], tokenOrigins(3, 9, 1)[0]];
    expect(joinOrigins([second, first])).toEqual({ firstStep: 1, lastStep: 3, firstToken: 4, endToken: 10 });
    expect(joinOrigins([first, undefined])).toBeUndefined();
    expect(joinOrigins([])).toBeUndefined();
  });

  test.each([
    ["something else", "text"],
    ["too few slots", [[1, 1, 1, 0, 1, 1]]],
    ["too many slots", [[3, 1, 1, 0, 3, 1]]],
    ["tokens that do not fit the slots", [[2, 1, 1, 0, 5, 1]]],
    ["steps that run backwards", [[2, 3, 1, 0, 5, 0]]],
    ["fractions", [[2, 1, 1, 0, 2.5, 0]]],
  ])("packed as %s make no sense", (_, packed) => {
    expect(unpackOrigins(packed, 2)).toBeUndefined();
  });
});
