/** @file The page's tables for methods that take a share of the cache away. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseMethodSpec } from "#precis/eval/method-spec.js";
import { formatEstimate, formatShare } from "#precis/eval/report/wording.js";
import { settingMarkdown } from "#precis/eval/results/markdown.js";
import { readPlan } from "#precis/eval/results/plan.js";
import { evaluate } from "#precis/eval/runner.js";
import { createFixture, type Fixture } from "../../conformance/fixtures.js";
import { tinyDataFolder } from "../../data/tiny-data.js";
import { writeFiles } from "../../weights/folders.js";
import { join } from "node:path";

let fixture: Fixture;
let data: Awaited<ReturnType<typeof tinyDataFolder>>;

beforeAll(async () => {
  [fixture, data] = await Promise.all([createFixture(), tinyDataFolder()]);
});

afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  await data[Symbol.asyncDispose]();
});

test("perplexity, what is left, paired differences and the share of the loss that is saved", async () => {
  const methods = [`sentinel:${fixture.sentinelAdapter.directory}`, "local", "full"];
  await writeFiles(fixture.scratch, {
    "plan.json": { model: "m", settings: [{ evaluation: "sentinel", methods, steps: [50, 90], limit: 3 }] },
  });
  const { settings } = await readPlan(join(fixture.scratch, "plan.json"));
  const [setting = expect.fail()] = settings;
  expect(setting.shuffled).toBe(false);
  const { evaluation, steps, limit } = setting;
  const specs = methods.map((text) => parseMethodSpec(text));
  const { model } = fixture;
  const result = await evaluate({
    evaluation,
    steps,
    limit,
    model,
    dataDir: data.path,
    methods: specs,
    replicates: 50,
  });
  const stored = { format: 1 as const, setting, model: "m", dtype: "fp32", adapters: {}, result };
  const [sentinel = expect.fail(), local] = result.methods;
  const pageWhereLocalLoses = (low: number): string => {
    for (const { differences } of local.points) differences["full"] = { perplexity: { value: 1, low, high: 2 } };
    return settingMarkdown(stored, "results");
  };
  const page = pageWhereLocalLoses(0.1);
  // A share of no loss would be a share of noise.
  const without = pageWhereLocalLoses(-0.1);
  for (const point of sentinel.points) {
    const paired = point.differences["local"].perplexity ?? expect.fail();
    expect(page).toContain(formatEstimate("perplexity", paired));
    const share = formatShare(point.gapClosed.perplexity ?? expect.fail());
    expect(page).toContain(share);
    expect(without).not.toContain(share);
  }
  const bytes = local.points[1].memory.bytes / 1000;
  expect(page).toContain(`| 26 (${bytes.toFixed(bytes < 10 ? 2 : 1)} kB), at most`);
  expect(page).toContain("**KV slots left** of 256 tokens");
  expect(page).toContain("](results/sentinel-steps.svg)");
  expect(page).not.toMatch(/NaN|undefined/);
});
