import { describe, expect, it } from "vitest";

import type { Episode } from "#precis/data/episode.js";
import { layoutEpisode } from "#precis/train/batches.js";
import { IGNORED_LABEL } from "#precis/train/parallel-layout.js";
import type { ParallelMode } from "#precis/train/parallel-mode.js";
import { MODES } from "./tiny-training.js";

const episode: Episode = {
  id: "demonstrations",
  source: "task",
  setting: "icl",
  steps: [
    [1, 10, 11, 12],
    [20, 21, 22, 23],
    [30, 31, 32],
  ],
  answers: [{ start: 2, end: 4 }, { start: 2, end: 4 }, undefined],
  input: [40, 41],
  target: [42, 43],
};

function labelled(mode: ParallelMode, labels: "answer" | "answers" | "all", of: Episode = episode): number[] {
  return [...layoutEpisode(of, mode, labels).labels].filter((label) => label !== IGNORED_LABEL);
}

describe("what the loss covers", () => {
  const concat = MODES["concat, recursive"] as ParallelMode;

  it("is the target alone, as in the paper", () => {
    expect(labelled(concat, "answer")).toEqual([42, 43]);
  });

  it("adds the answers of steps that have a memory before them", () => {
    expect(labelled(concat, "answers")).toEqual([22, 23, 42, 43]);
  });

  it("adds all their text but first tokens, which nothing of their step predicts", () => {
    expect(labelled(concat, "all")).toEqual([21, 22, 23, 31, 32, 41, 42, 43]);
  });

  it("is all text where steps are not questions with answers", () => {
    const { answers: _none, ...text } = episode;
    expect(labelled(concat, "answers", text)).toEqual(labelled(concat, "all", text));
  });

  it("covers later steps of an uncompressed context too", () => {
    expect(labelled(MODES["full"] as ParallelMode, "answers")).toEqual([22, 23, 42, 43]);
  });
});
