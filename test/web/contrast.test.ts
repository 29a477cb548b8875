/** @file Colours of the playground: text can be read on what is behind it, in both themes. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

const CSS = readFileSync(new URL("../../web/src/style/tokens.css", import.meta.url), "utf8");

/** Colours by name of the n-th block. */
function palette(block: number): Map<string, string> {
  const [, ...blocks] = CSS.split(/:root[^{]*\{/);
  return new Map([...blocks[block].matchAll(/--([\w-]+): (#[0-9a-f]{6});/g)].map(([, name, value]) => [name, value]));
}

/** Relative luminance, as WCAG defines it. */
function luminance(color: string): number {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const channel = parseInt(color.slice(at, at + 2), 16) / 255;
    return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one: string, other: string): number {
  const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}

const TEXTS: readonly [ink: string, ...papers: string[]][] = [
  ["ink", "paper", "panel", "sunken", "user"],
  ["ink-soft", "paper", "panel", "sunken", "user"],
  ["ink-faint", "paper", "panel"],
  ["accent", "paper", "panel"],
  ["on-accent", "accent"],
  ["alert", "alert-paper"],
];

describe.each([
  ["light", 0],
  ["dark", 1],
])("in the %s theme", (_, block) => {
  const colors = palette(block);
  const of = (name: string): string => colors.get(name) ?? expect.unreachable(`no colour ${name}`);

  test("text has a contrast of 4.5 to 1", () => {
    for (const [ink, ...papers] of TEXTS) {
      for (const paper of papers) {
        expect({ ink, paper, enough: contrast(of(ink), of(paper)) >= 4.5 }).toEqual({ ink, paper, enough: true });
      }
    }
  });

  test("lines of charts have 3 to 1, and more attention always means more contrast", () => {
    for (const tone of ["tone-memory", "tone-window", "tone-full"]) {
      expect(contrast(of(tone), of("panel"))).toBeGreaterThan(3);
    }
    const ramp = [0, 1, 2, 3, 4].map((stop) => contrast(of(`ramp-${stop}`), of("panel")));
    expect(ramp).toEqual([...ramp].sort((a, b) => a - b));
  });
});
