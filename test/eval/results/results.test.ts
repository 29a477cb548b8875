/** @file The page of results: measured once, resumed, rendered from files alone, and written around by hand. */
import { appendFile, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { resultsCommand } from "#precis/cli/commands/results.js";
import { Journal } from "#precis/eval/journal.js";
import { canonicalJson } from "#precis/weights/files.js";
import type { Estimate } from "#precis/eval/bootstrap.js";
import { formatEstimate } from "#precis/eval/report/wording.js";
import type { EvaluationResult, MethodResult } from "#precis/eval/result.js";
import { settingMarkdown } from "#precis/eval/results/markdown.js";
import { fillPage } from "#precis/eval/results/page.js";
import { verdict } from "#precis/eval/results/pairs.js";
import { readPlan, type PlannedSetting } from "#precis/eval/results/plan.js";
import type { StoredResult } from "#precis/eval/results/stored.js";
import { createFixture, type Fixture } from "../../conformance/fixtures.js";
import { tinyDataFolder } from "../../data/tiny-data.js";
import { temporaryFolder, writeFiles } from "../../weights/folders.js";

let fixture: Fixture;
let data: Awaited<ReturnType<typeof tinyDataFolder>>;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;

beforeAll(async () => {
  [fixture, data] = await Promise.all([createFixture(), tinyDataFolder()]);
});

afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  await data[Symbol.asyncDispose]();
});

const PAGE = `# Results

By hand.

<!-- results: talk -->
what was here before
<!-- end: talk -->

Also by hand.

<!-- results: streaming -->
<!-- end: streaming -->
`;

function plan(limit = 3): Record<string, unknown> {
  const { directory } = fixture.adapter;
  return {
    model: fixture.files.directory,
    settings: [
      {
        name: "talk",
        evaluation: "conversation",
        steps: [1, 3],
        limit,
        only: ["open"],
        methods: ["none", "full", { label: "Concat | two", method: `ccm-concat:${directory}` }],
      },
      {
        evaluation: "streaming",
        steps: [100, 300],
        methods: [
          { label: "Window", method: "sliding-window,budget=24" },
          { label: "Sinks", method: "streaming,budget=24,sink=2,evict=4" },
        ],
      },
    ],
  };
}

interface Printed {
  settings: { setting: string; status: string }[];
  unplaced: string[];
}

async function results(...args: readonly string[]): Promise<Printed> {
  const printed: string[] = [];
  const spy = vi.spyOn(process.stdout, "write").mockImplementation((text) => printed.push(String(text)) > 0);
  const files = ["--plan", join(folder.path, "results/plan.json"), "--page", join(folder.path, "results.md")];
  try {
    await resultsCommand().parseAsync([...args, ...files, "--threads", "1", "--json"], { from: "user" });
  } finally {
    spy.mockRestore();
  }
  return JSON.parse(printed.join("")) as Printed;
}

function statuses({ settings }: Printed): string[] {
  return settings.map(({ setting, status }) => `${setting} ${status}`);
}

describe("measuring", () => {
  beforeEach(async () => {
    folder = await temporaryFolder();
    await writeFiles(folder.path, { "results/plan.json": plan(), "results.md": PAGE });
    return () => folder[Symbol.asyncDispose]();
  });

  test("one setting, then the rest, then nothing; a changed setting again; force everything", async () => {
    expect(statuses(await results("talk", "--data", data.path))).toEqual(["talk measured", "streaming missing"]);
    expect(statuses(await results("--data", data.path))).toEqual(["talk kept", "streaming measured"]);
    expect(statuses(await results("--data", data.path))).toEqual(["talk kept", "streaming kept"]);
    await writeFiles(folder.path, { "results/plan.json": plan(2) });
    expect(statuses(await results("--data", data.path))).toEqual(["talk measured", "streaming kept"]);
    expect(statuses(await results("--data", data.path, "--force"))).toEqual(["talk measured", "streaming measured"]);
  });

  test("a setting may have a model of its own, which is told in its file", async () => {
    const other = await createFixture({ seed: 5 });
    const { settings, ...rest } = plan() as { settings: Record<string, unknown>[] };
    const streaming = { ...settings[1], model: other.files.directory };
    await writeFiles(folder.path, { "results/plan.json": { ...rest, settings: [settings[0], streaming] } });
    try {
      expect(statuses(await results("--data", data.path))).toEqual(["talk measured", "streaming measured"]);
      expect(statuses(await results("--data", data.path))).toEqual(["talk kept", "streaming kept"]);
    } finally {
      await other[Symbol.asyncDispose]();
    }
    const models = await Promise.all(
      ["talk", "streaming"].map(async (name) => {
        const stored = JSON.parse(await readFile(join(folder.path, `results/${name}.json`), "utf8")) as StoredResult;
        return stored.model;
      }),
    );
    expect(models[0]).not.toBe(models[1]);
  });

  test("the page holds the numbers of the files, and keeps what stands around them", async () => {
    await results("--data", data.path);
    const written = await readFile(join(folder.path, "results.md"), "utf8");
    const file = await readFile(join(folder.path, "results/talk.json"), "utf8");
    const { result } = JSON.parse(file) as { result: EvaluationResult };
    expect(written).toMatch(/^# Results\n\nBy hand\.\n\n<!-- results: talk -->/);
    expect(written).toContain("\nAlso by hand.\n");
    expect(written).not.toContain("what was here before");
    for (const { points } of result.methods) {
      for (const { metrics } of points) {
        expect(written).toContain(` ${formatEstimate("perplexity", metrics.perplexity as Estimate)} |`);
      }
    }
    // No context stands beside the memory of another sample, for every method.
    expect(written).toContain("| Concat \\| two, another sample's memory |");
    expect(written).toContain("| full, another sample's memory |");
    expect(written).toContain("holds at most 24 KV slots");
    expect(written).toContain("| Sinks − Window |");
    expect(written).not.toMatch(/NaN|undefined|Infinity/);
    for (const [, image] of written.matchAll(/!\[[^\]]*\]\(([^)]*)\)/g)) {
      const svg = await readFile(join(folder.path, image), "utf8");
      expect(svg).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg"/);
      expect(svg).toContain("prefers-color-scheme: dark");
      expect(svg).not.toMatch(/NaN|undefined|Infinity/);
    }
  });

  test("rendering needs no data and no model, and changes nothing that was rendered", async () => {
    await results("--data", data.path);
    const before = await readFile(join(folder.path, "results.md"), "utf8");
    await writeFiles(folder.path, { "results/plan.json": { ...plan(), model: "nowhere" }, "results.md": PAGE });
    expect(statuses(await results("--render"))).toEqual(["talk rendered", "streaming rendered"]);
    expect(await readFile(join(folder.path, "results.md"), "utf8")).toBe(before);
    await writeFile(join(folder.path, "results.md"), "no place");
    expect((await results("--render")).unplaced).toEqual(["talk", "streaming"]);
  });

  test("a run that was cut off goes on where it was, with the same numbers", async () => {
    const file = join(folder.path, "results/talk.json");
    const partial = join(folder.path, "results/talk.partial.jsonl");
    const numbers = async (): Promise<unknown> => {
      const { result } = JSON.parse(await readFile(file, "utf8")) as { result: EvaluationResult };
      return result.methods.map(({ points }) => points);
    };
    await results("talk", "--data", data.path);
    const whole = await numbers();
    await expect(readFile(partial)).rejects.toMatchObject({ code: "ENOENT" });

    const { setting, model, dtype, adapters } = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
    const subject = canonicalJson({ setting, model, dtype, adapters });
    const journal = await Journal.open(partial, subject);
    // A perplexity that no case has, and a line that was cut off: the one shows that it was used, the other is done again.
    const memory = { slots: 0, bytes: 0, peakSlots: 0, peakBytes: 0, contextTokens: 0, fullBytes: 0 };
    const value = [{ step: 1, stratum: "open", cluster: "open/test-0", memory, nll: 10, tokens: 1 }];
    for (const id of ["open/test-0", "open/test-1", "open/test-2", "open/test-3"]) {
      journal.put(JSON.stringify(["none", id]), { value, seconds: 1 });
    }
    await appendFile(partial, '{"key":"[\\"full\\",\\"open/te');
    await rm(file);
    await results("talk", "--data", data.path);
    const [none, ...others] = (await numbers()) as MethodResult["points"][];
    expect(none[0].metrics.perplexity?.value).toBeCloseTo(Math.exp(10), 0);
    expect(others.map(([{ metrics }]) => metrics)).toEqual(
      (whole as MethodResult["points"][]).slice(1).map(([{ metrics }]) => metrics),
    );
    await expect(readFile(partial)).rejects.toMatchObject({ code: "ENOENT" });
  });

  test("what cannot be done is told", async () => {
    await expect(results("weather")).rejects.toMatchObject({ code: "OPTION_INVALID" });
    await expect(results()).rejects.toMatchObject({ code: "OPTION_INVALID" });
    await writeFiles(folder.path, { "results/plan.json": { model: "x", settings: [{ evaluation: "weather" }] } });
    await expect(results("--render")).rejects.toMatchObject({ code: "FILE_INVALID" });
  });
});

test("the plan of the repository can be read", async () => {
  const { settings } = await readPlan("docs/results/plan.json");
  const evaluations = ({ evaluation }: PlannedSetting): string => evaluation;
  expect(settings.map(evaluations)).toContain("streaming");
  const controlled = settings.filter(({ shuffled }) => shuffled).map(evaluations);
  expect(controlled).toEqual(expect.arrayContaining(["conversation", "multi-task", "personalization", "recall"]));
  // Streams and texts have no other sample's memory.
  for (const name of ["streaming", "sentinel", "sentinel-generation"]) expect(controlled).not.toContain(name);
});

test("parts go to their places, and those without one are named", () => {
  const page = "a\n<!-- results: x -->\n<!-- end: x -->\nb\n";
  const { text, unplaced } = fillPage(
    page,
    new Map([
      ["x", "X"],
      ["y", "Y"],
    ]),
  );
  expect(text).toBe("a\n<!-- results: x -->\n\nX\n\n<!-- end: x -->\nb\n");
  expect(unplaced).toEqual(["y"]);
  expect(fillPage(text, new Map([["x", "X"]])).text).toBe(text);
});

test("a gap is shown only where full context is better than none beyond chance", () => {
  const memory = { slots: 1, bytes: 1, peakSlots: 1, peakBytes: 1, contextTokens: 1, fullBytes: 1 };
  const estimateOf = (value: number): Estimate => ({ value, low: value - 1, high: value + 1 });
  const stored = (advantage: Estimate): StoredResult => {
    const method = (label: string, perplexity: number): MethodResult => ({
      label,
      method: label,
      options: {},
      shuffled: false,
      adapter: null,
      seconds: 1,
      points: [
        {
          step: 1,
          questions: 1,
          metrics: { perplexity: estimateOf(perplexity) },
          bySource: {},
          memory,
          gapClosed: { perplexity: { value: 0.5, low: 0.25, high: 0.75 } },
          differences: { none: { perplexity: advantage } },
        },
      ],
    });
    const methods = [method("none", 20), method("full", 10), method("ccm-merge", 15)];
    const model = { directory: "m", fingerprint: "f", dtype: "fp32", bytesPerSlot: 1 };
    const result: EvaluationResult = {
      evaluation: "conversation",
      model,
      seed: 0,
      primary: "perplexity",
      sources: { open: 1 },
      methods,
    };
    const setting = { name: "talk", evaluation: "conversation", methods: [], shuffled: false, seed: 0 } as const;
    return { format: 1, setting, model: "f", dtype: "fp32", adapters: {}, result };
  };
  expect(settingMarkdown(stored({ value: -10, low: -12, high: -8 }), "plots")).toContain("| 50% [25%, 75%] |");
  for (const none of [
    { value: -10, low: -21, high: 1 },
    { value: 10, low: 8, high: 12 },
  ]) {
    const page = settingMarkdown(stored(none), "plots");
    expect(page).not.toContain("50%");
    expect(page).toContain("no gap to close");
  }
});

test("only intervals beyond zero make a method better", () => {
  const of = (low: number, high: number): Estimate => ({ value: (low + high) / 2, low, high });
  const pair = { first: { label: "A" } as MethodResult, second: { label: "B" } as MethodResult };
  expect(verdict({ ...pair, points: [of(-3, -1), of(-2, -1)], stretches: [of(-3, -1), of(-1, 1), of(1, 2)] })).toBe(
    "A against B: perplexity lower at every length (2 of 2 intervals exclude 0); " +
      "lower beyond chance at 1 of 3 stretches, higher at 1, undecided at 1.",
  );
});
