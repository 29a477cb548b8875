import { fc } from "../property.js";
import { describe, expect, it } from "vitest";
import { StopMatcher } from "#precis/text/stop-strings.js";

/** Feed the pieces; everything emitted, flush included unless stopped, and the stop. */
function run(stops: readonly string[], pieces: readonly string[]): { text: string; stopped: string | undefined } {
  const matcher = new StopMatcher(stops);
  let text = "";
  for (const piece of pieces) {
    const { emit, stopped } = matcher.push(piece);
    text += emit;
    if (stopped !== undefined) return { text, stopped };
  }
  return { text: text + matcher.flush(), stopped: undefined };
}

/** Look at every prefix of the whole text for the stop that completes first. */
function naive(stops: readonly string[], whole: string): { text: string; stopped: string | undefined } {
  const longestFirst = [...stops].sort((a, b) => b.length - a.length);
  for (let end = 1; end <= whole.length; end++) {
    const stopped = longestFirst.find((stop) => whole.slice(0, end).endsWith(stop));
    if (stopped !== undefined) return { text: whole.slice(0, end - stopped.length), stopped };
  }
  return { text: whole, stopped: undefined };
}

describe("StopMatcher", () => {
  it("stops at a string spread over pieces and emits nothing of it", () => {
    const matcher = new StopMatcher(["\nUser:"]);
    expect(matcher.push("Fine.\nUs")).toEqual({ emit: "Fine." });
    expect(matcher.push("er: so")).toEqual({ emit: "", stopped: "\nUser:" });
    expect(matcher.push("more")).toEqual({ emit: "", stopped: "\nUser:" });
    expect(matcher.flush()).toBe("");
  });

  it("gives back held text that turned out harmless", () => {
    const matcher = new StopMatcher(["<end>"]);
    expect([matcher.push("a<en"), matcher.push("t>")]).toEqual([{ emit: "a" }, { emit: "<ent>" }]);
    expect(matcher.push("b<")).toEqual({ emit: "b" });
    expect(matcher.flush()).toBe("<");
  });

  it("passes text through at once without stop strings", () => {
    expect(new StopMatcher([]).push("anything")).toEqual({ emit: "anything" });
  });

  it("prefers the stop that completes first, then the longest", () => {
    expect(run(["abcd", "bc"], ["xabcd"])).toEqual({ text: "xa", stopped: "bc" });
    expect(run(["bc", "abc"], ["x", "ab", "c"])).toEqual({ text: "x", stopped: "abc" });
  });

  it("agrees with a search of the whole text, however it is cut", () => {
    const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 6 });
    const stops = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 5 }), {
      maxLength: 3,
    });
    fc.assert(
      fc.property(stops, fc.array(letters, { maxLength: 8 }), (list, pieces) => {
        expect(run(list, pieces)).toEqual(naive(list, pieces.join("")));
      }),
      { numRuns: 1000 },
    );
  });

  it("refuses an empty stop string", () => {
    expect(() => new StopMatcher(["ok", ""])).toThrow(expect.objectContaining({ code: "OPTION_INVALID" }));
  });
});
