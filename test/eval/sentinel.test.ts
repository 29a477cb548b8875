/** @file Reading and writing with a share of the cache taken away, on a tiny random model. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { stableHash } from "#precis/data/random.js";
import { parseMethodSpec } from "#precis/eval/method-spec.js";
import { chartsOf } from "#precis/eval/report/charts.js";
import { renderReport } from "#precis/eval/report/html.js";
import type { EvaluationResult, MethodResult } from "#precis/eval/result.js";
import { evaluate, type EvaluationOptions } from "#precis/eval/runner.js";
import { layoutBlock, maskedText, slotsOf } from "#precis/eval/tasks/sentinel.js";
import { proseOf, readBlocks, type ProseBlock } from "#precis/eval/tasks/text-blocks.js";
import type { CreateMemoryOptions } from "#precis/index.js";
import type { SpanPlacement } from "#precis/sentinel/recent-rules.js";
import { Tokenizer } from "#precis/text/tokenizer.js";
import { createFixture, type Fixture } from "../conformance/fixtures.js";
import { jsonLines, tinyDataFolder } from "../data/tiny-data.js";
import { writeRandomAdapter } from "../reference/random-model.js";
import { writeFiles } from "../weights/folders.js";

let fixture: Fixture;
let data: Awaited<ReturnType<typeof tinyDataFolder>>;
/** Folder of an adapter with sentinels that acts at all tokens. */
let adapter: string;
/** Another one, trained with spans whose tokens leave one by one. */
let recentAdapter: string;
let blocks: ProseBlock[];
const LONGEST = 5;

beforeAll(async () => {
  [fixture, data] = await Promise.all([createFixture({ seed: 53 }), tinyDataFolder()]);
  adapter = sentinelAdapter("sentinel", { span: LONGEST });
  recentAdapter = sentinelAdapter("recent", { span: LONGEST, policy: "recent", ratio: 0.5 });
  const tokenizer = await Tokenizer.load(fixture.files.directory);
  blocks = await readBlocks(tokenizer, { dataDir: data.path, tokens: 256, limit: 3, seed: 1 });
});

afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  await data[Symbol.asyncDispose]();
});

/** Writes a random adapter that is to be used with these options. */
function sentinelAdapter(name: string, options: Record<string, unknown>): string {
  const directory = join(fixture.scratch, name);
  writeRandomAdapter(directory, { ...fixture.files.options, compTokens: 2 });
  const file = join(directory, "adapter_config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as { precis: Record<string, unknown> };
  Object.assign(config.precis, { gated: false, method: "sentinel", options });
  writeFileSync(file, JSON.stringify(config));
  return directory;
}

function run(
  evaluation: EvaluationOptions["evaluation"],
  methods: readonly string[],
  more: Partial<EvaluationOptions> = {},
): Promise<EvaluationResult> {
  const specs = methods.map((text) => parseMethodSpec(text));
  const { model } = fixture;
  return evaluate({ evaluation, model, dataDir: data.path, methods: specs, replicates: 50, ...more });
}

describe("blocks", () => {
  test("are of held-out texts, as many as asked for, the same for the same seed", async () => {
    const tokenizer = await Tokenizer.load(fixture.files.directory);
    expect(blocks).toHaveLength(3);
    for (const { ids, source, wordStarts } of blocks) {
      expect(source).toBe("books");
      expect(ids).toHaveLength(256);
      expect(ids[0]).toBe(tokenizer.bosId);
      expect(tokenizer.decode(ids.slice(1))).toMatch(/^(?:held|out\d+)/);
      expect(wordStarts[0]).toBe(1);
    }
    const again = await readBlocks(tokenizer, { dataDir: data.path, tokens: 256, limit: 3, seed: 1 });
    expect(again).toEqual(blocks);
    const other = await readBlocks(tokenizer, { dataDir: data.path, tokens: 256, limit: 3, seed: 2 });
    expect(other).not.toEqual(blocks);
  });

  test("are prose: no fenced code, nothing set in", () => {
    const text =
      "One.\n\n```js\nlet a;\n\nlet b;\n```\n\nTwo\nthree.\n\n    indented();\n\nFour.\n\n```\nnever closed\n\nFive";
    expect(proseOf(text)).toBe("One.\n\nTwo\nthree.\n\nFour.");
    expect(proseOf("Only prose.\n\nMore.")).toBe("Only prose.\n\nMore.");
  });

  test("of sources without a test part are of what training holds back", async () => {
    const folder = join(fixture.scratch, "docs-only");
    const words = (number: number): string => Array.from({ length: 80 }, (_, i) => `page${number}-${i}`).join(" ");
    const pages = Array.from({ length: 200 }, (_, number) => ({ title: `p${number}`, text: words(number) }));
    await writeFiles(folder, { "docs/manual.jsonl": jsonLines(pages) });
    const { sources } = await run("sentinel", ["full"], { dataDir: folder, steps: [50], limit: 2 });
    expect(sources).toEqual({ manual: 2 });
  });
});

describe("the parallel pass equals the memory that reads token by token", () => {
  const nllOf = async (
    block: ProseBlock,
    name: string,
    percent: number,
    folder?: string,
    placement?: SpanPlacement,
  ) => {
    const layout = layoutBlock(block, { method: name, percent, longest: LONGEST, placement, vocabSize: 320 });
    const text = maskedText(layout);
    const [nll] = await fixture.model.scoreMasked([text], { adapter: folder });
    return { nll: nll as Float32Array, text, ...slotsOf(layout, text) };
  };
  const expectEqual = (got: Float32Array, wanted: Float32Array): void => {
    expect(got.length).toBe(wanted.length);
    for (const [index, value] of got.entries()) expect(value).toBeCloseTo(wanted[index], 3);
  };
  const reads = async (options: CreateMemoryOptions, ids: readonly number[]) => {
    const memory = await fixture.model.createMemory(options);
    const scored = await memory.score(ids);
    return { scored, ...(await memory.stats()), peak: await memory.peakSlots() };
  };

  test.each([10, 50, 90])("sentinel at %i%%, in likelihoods and in slots", async (percent) => {
    for (const block of blocks) {
      const { nll, text, slots, peakSlots } = await nllOf(block, "sentinel", percent, adapter);
      const options = { policy: "marked", span: LONGEST };
      const memory = await reads({ method: "sentinel", adapter, options }, text.ids);
      expectEqual(nll, memory.scored);
      expect(memory.slots).toBe(slots);
      expect(peakSlots).toBeGreaterThanOrEqual(slots);
      expect(peakSlots).toBeLessThanOrEqual(slots + LONGEST * 12 + 2);
    }
  });

  test.each([10, 50, 90])("spans whose tokens leave one by one at %i%%, as many slots as local", async (percent) => {
    const ratio = percent / 100;
    for (const block of blocks) {
      const { nll, slots, peakSlots } = await nllOf(block, "sentinel", percent, recentAdapter, "recent");
      const memory = await reads({ method: "sentinel", adapter: recentAdapter, options: { ratio } }, block.ids);
      expectEqual(nll, memory.scored);
      expect(memory.slots).toBe(slots);
      expect(peakSlots).toBeGreaterThanOrEqual(slots);
      const near = await nllOf(block, "local", percent);
      if (percent < 90) expect(slots).toBe(near.slots);
    }
  });

  test.each([10, 50, 90])(
    "spans whose tokens leave spanwise at %i%%, as many slots as local between spans",
    async (percent) => {
      const options = { ratio: percent / 100, policy: "spanwise" };
      for (const block of blocks) {
        const { nll, slots, peakSlots } = await nllOf(block, "sentinel", percent, recentAdapter, "spanwise");
        const memory = await reads({ method: "sentinel", adapter: recentAdapter, options }, block.ids);
        expectEqual(nll, memory.scored);
        expect(slots).toBe((await nllOf(block, "local", percent)).slots);
        expect(memory.slots).toBeGreaterThanOrEqual(slots);
        expect(peakSlots).toBeGreaterThanOrEqual(memory.slots);
      }
    },
  );

  test("what a token sees on average: half of a block in full, half of that locally, and more of open spans", async () => {
    for (const block of blocks) {
      const full = await nllOf(block, "full", 50);
      expect(full.seenSlots).toBe((block.ids.length + 1) / 2);
      const local = await nllOf(block, "local", 50);
      expect(local.seenSlots / block.ids.length).toBeCloseTo(0.25, 1);
      const spanwise = await nllOf(block, "sentinel", 50, recentAdapter, "spanwise");
      expect(spanwise.seenSlots).toBeGreaterThan(local.seenSlots);
    }
  });

  test.each([10, 50, 90])("local and scattered at %i%%", async (percent) => {
    const ratio = percent / 100;
    for (const block of blocks) {
      const local = await nllOf(block, "local", percent, adapter);
      const near = await reads({ method: "local", adapter, options: { ratio } }, block.ids);
      expectEqual(local.nll, near.scored);
      expect(near.slots).toBe(local.slots);
      const scattered = await nllOf(block, "scattered", percent);
      const seed = stableHash(block.id);
      const random = await reads({ method: "scattered", options: { ratio, seed } }, block.ids);
      expectEqual(scattered.nll, random.scored);
      expect(random.slots).toBe(scattered.slots);
    }
  });

  test("full attention, whatever the share", async () => {
    const [block = expect.fail()] = blocks;
    const full = await nllOf(block, "full", 90);
    const memory = await reads({ method: "full" }, block.ids);
    expectEqual(full.nll, memory.scored);
    expect([full.slots, full.peakSlots]).toEqual([256, 256]);
  });

  test("texts that do not fit their masks are refused", async () => {
    const text = { ids: [1, 2], positions: [0, 1], attend: new Uint8Array(3), labels: [2], predictors: [0] };
    await expect(fixture.model.scoreMasked([text])).rejects.toMatchObject({ code: "INPUT_INVALID" });
  });
});

function method(result: EvaluationResult, label: string): MethodResult {
  return result.methods.find((candidate) => candidate.label === label) ?? expect.fail();
}

describe("perplexity by share", () => {
  let result: EvaluationResult;
  const label = (): string => `sentinel:${adapter}`;
  beforeAll(async () => {
    result = await run("sentinel", [label(), "local", "scattered", "full"], { limit: 3, seed: 1, steps: [0, 40, 90] });
  });

  test("is that of the same tokens for every method", () => {
    expect(result.sources).toEqual({ books: 3 });
    for (const { points } of result.methods) {
      expect(points.map(({ step, questions }) => [step, questions])).toEqual([
        [0, 3],
        [40, 3],
        [90, 3],
      ]);
    }
    const [none, , most] = method(result, "full").points;
    expect(most.metrics.perplexity?.value).toBe(none.metrics.perplexity?.value);
    // With nothing taken away, all read like full attention.
    for (const name of ["local", "scattered"]) {
      expect(method(result, name).points[0].metrics.perplexity?.value).toBeCloseTo(
        none.metrics.perplexity?.value ?? NaN,
        3,
      );
    }
  });

  test("comes with the slots that are left", () => {
    for (const name of [label(), "local", "scattered"]) {
      const [all, some, few] = method(result, name).points.map(({ memory }) => memory.slots / memory.contextTokens);
      expect(all).toBe(1);
      expect(some).toBeGreaterThan(0.4);
      expect(some).toBeLessThan(0.8);
      expect(few).toBeLessThan(0.3);
    }
    const { memory } = method(result, "local").points[2];
    expect(memory.slots).toBe(26);
    expect(memory.bytes).toBe(26 * fixture.model.info.bytesPerSlot);
    expect(memory.fullBytes).toBe(256 * fixture.model.info.bytesPerSlot);
  });

  test("follows the placement that the adapter was trained with, or the one that is asked for", async () => {
    const [trained, asked] = [`sentinel:${recentAdapter}`, `sentinel:${adapter},policy=recent`];
    const { methods } = await run("sentinel", [trained, asked, label()], { limit: 3, seed: 1, steps: [40] });
    const [first, second, random] = methods.map(({ points }) => points[0]);
    expect(methods.map((one) => one.label)).toEqual([trained, asked, label()]);
    expect(first.memory).toMatchObject({ slots: 154, contextTokens: 256 });
    // The adapters differ in nothing but their options.
    expect(second.memory).toEqual(first.memory);
    expect(second.metrics).toEqual(first.metrics);
    expect(random.metrics.perplexity?.value).not.toBe(first.metrics.perplexity?.value);
  });

  test("gaps are the share of local attention's loss that is saved", () => {
    const value = (name: string): number => method(result, name).points[2].metrics.perplexity?.value ?? NaN;
    const [sentinel, local, full] = [label(), "local", "full"].map(value);
    const gap = method(result, label()).points[2].gapClosed.perplexity;
    expect(gap?.value).toBeCloseTo((local - sentinel) / (local - full), 6);
    expect(method(result, "local").points[2].gapClosed.perplexity?.value).toBeCloseTo(0, 9);
  });

  test("goes into reports and charts", () => {
    const page = renderReport([result]);
    expect(page).toContain("Sentinel tokens: reading");
    expect(page).not.toMatch(/NaN|undefined|Infinity/);
    expect(chartsOf(result).map(({ name }) => name)).toEqual(["memory", "steps"]);
  });

  test.each<[string, string[], Partial<EvaluationOptions>]>([
    ["a method that text cannot be laid out for", ["streaming"], {}],
    ["all of the cache", ["local"], { steps: [100] }],
    ["a memory to shuffle", ["local,shuffled=true"], {}],
    ["no texts", ["local"], { only: ["open"] }],
  ])("%s is refused", async (_name, methods, more) => {
    await expect(run("sentinel", methods, { limit: 1, ...more })).rejects.toMatchObject({ code: "OPTION_INVALID" });
  });
});

describe("writing", () => {
  let small: Fixture;
  beforeAll(async () => {
    small = await createFixture({ seed: 53 }, { config: { max_position_embeddings: 160 } });
  });
  afterAll(() => small[Symbol.asyncDispose]());

  const write = (methods: readonly string[], more: Partial<EvaluationOptions> = {}): Promise<EvaluationResult> =>
    run("sentinel-generation", methods, { model: small.model, limit: 2, seed: 1, ...more });

  test("half and a quarter of the positions: prompt and answer, at every share, measured and repeatable", async () => {
    const sentinel = `sentinel:${adapter}`;
    const settings = { steps: [20, 90] };
    const result = await write([sentinel, "local", "full"], settings);
    expect(result.primary).toBe("rouge");
    for (const { points } of result.methods) {
      for (const { metrics, questions, memory } of points) {
        expect(questions).toBe(2);
        expect(Object.keys(metrics).sort()).toEqual([
          "bleu",
          "distinct",
          "perplexity",
          "repetition",
          "rouge",
          "similarity",
        ]);
        for (const estimate of Object.values(metrics)) expect(Number.isFinite(estimate.value)).toBe(true);
        expect(memory.contextTokens).toBe(80 + 40);
      }
    }
    const [little, much] = method(result, sentinel).points.map(({ memory }) => memory.slots);
    expect(much).toBeLessThan(little);
    expect(method(result, "local").points[1].memory.slots).toBe(12);
    const [full, same] = method(result, "full").points;
    expect(full.memory.slots).toBe(120);
    expect(same.metrics.rouge?.value).toBe(full.metrics.rouge?.value);
    const again = await write([sentinel, "local", "full"], settings);
    expect(again.methods.map(({ points }) => points)).toEqual(result.methods.map(({ points }) => points));
    expect(renderReport([result])).not.toMatch(/NaN|undefined|Infinity/);
  });

  test("with spans whose tokens leave one by one: as many slots as local attention", async () => {
    const names = [`sentinel:${recentAdapter}`, `sentinel:${adapter},policy=recent`, "local"];
    const { methods } = await write(names, { steps: [50] });
    expect(methods.map(({ points }) => points[0].memory.slots)).toEqual([60, 60, 60]);
    const [trained, asked] = methods.map(({ points }) => points[0].metrics);
    expect(asked).toEqual(trained);
  });

  test("with another sample's prompt something else is written", async () => {
    const { methods } = await write(["full", "full,shuffled=true"], { steps: [50] });
    const [own, other] = methods.map(({ points }) => points[0].metrics.similarity?.value);
    expect(other).not.toBe(own);
    expect(methods[1].controlOf).toBe("full");
  });
});
