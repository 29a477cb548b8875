/** @file Sampling: deterministic, resumable, within its limits, and never from what is held out. */
import { describe, expect, test } from "vitest";
import { episodeLength, type Episode } from "#precis/data/episode.js";
import { SeededRandom } from "#precis/data/random.js";
import { EpisodeSampler, sampleEpisodes, type SampleOptions } from "#precis/data/sample.js";
import { RANDOM_WORDS } from "#precis/data/settings/random-words.js";
import { temporaryFolder, writeFiles } from "../weights/folders.js";
import { HELD_OUT, jsonLines, tinyDataFolder, tinyText } from "./tiny-data.js";

async function options(dataDir: string, more: Partial<SampleOptions> = {}): Promise<SampleOptions> {
  const { tokenizer, template } = await tinyText();
  const limits = { maxTokens: 300, maxSteps: 5, maxStepTokens: 64, streamStepTokens: 32 };
  return { dataDir, tokenizer, template, seed: 3, ...limits, ...more };
}

async function take(given: SampleOptions, count: number): Promise<Episode[]> {
  const episodes: Episode[] = [];
  for await (const episode of sampleEpisodes(given)) {
    episodes.push(episode);
    if (episodes.length === count) break;
  }
  return episodes;
}

describe("episodes by index", () => {
  test("the same again, from any index on; another seed gives others", async () => {
    await using data = await tinyDataFolder();
    const given = await options(data.path);
    const all = await take(given, 30);
    expect(await take(given, 30)).toEqual(all);
    expect(await take({ ...given, start: 20 }, 10)).toEqual(all.slice(20));
    expect(await take({ ...given, seed: 4 }, 30)).not.toEqual(all);
    const sampler = await EpisodeSampler.open(given);
    expect(sampler.at(17)).toEqual(all[17]);
  });

  test("limits, settings in proportion, uniform numbers of steps", async () => {
    await using data = await tinyDataFolder();
    const weights = { conversation: 1, icl: 1, personal: 1, stream: 1 };
    const sampler = await EpisodeSampler.open(await options(data.path, { weights }));
    const counts: Record<string, number> = {};
    const steps: number[] = [];
    for (let index = 0; index < 800; index++) {
      const episode = sampler.at(index);
      counts[episode.setting] = (counts[episode.setting] ?? 0) + 1;
      expect(episodeLength(episode)).toBeLessThanOrEqual(300);
      expect(episode.steps.length).toBeGreaterThanOrEqual(1);
      expect(episode.steps.length).toBeLessThanOrEqual(5);
      expect(episode.target.length).toBeGreaterThan(0);
      expect(episode.input.length).toBeGreaterThan(0);
      for (const step of episode.steps) {
        expect(step.length).toBeGreaterThan(0);
        expect(step.length).toBeLessThanOrEqual(64);
      }
      if (episode.setting === "conversation") steps.push(episode.steps.length);
    }
    for (const setting of Object.keys(weights)) expect(counts[setting]).toBeGreaterThan(150);
    for (let count = 1; count <= 4; count++) {
      expect(steps.filter((length) => length === count).length / steps.length).toBeGreaterThan(0.1);
    }
  });

  test("profiles mix what all records of one user say, and never show what is asked", async () => {
    await using folder = await temporaryFolder();
    const record = (user: number, chunk: number): unknown => ({
      user: `u${user}`,
      profile: [0, 1, 2].map((entry) => ({ input: `${user}.${chunk}.${entry}`, output: "yes" })),
      query: { input: `${user}.${chunk}.9`, output: "no" },
      options: ["yes", "no"],
    });
    const records = Array.from({ length: 60 }, (_, index) => record(index % 20, Math.floor(index / 20)));
    await writeFiles(folder.path, { "personal/votes.jsonl": jsonLines(records) });
    const { tokenizer } = await tinyText();
    const sampler = await EpisodeSampler.open(await options(folder.path, { weights: { personal: 1 } }));
    let mixed = 0;
    for (let index = 0; index < 200; index++) {
      const { steps, input } = sampler.at(index);
      const shown = tokenizer.decode(steps.flat()).match(/\d+\.\d\.\d/g) ?? [];
      const asked = tokenizer.decode(input).match(/\d+\.\d\.\d/g) ?? [];
      const all = [...shown, ...asked];
      expect(asked).toHaveLength(1);
      expect(shown).toHaveLength(steps.length);
      expect(new Set(all).size).toBe(all.length);
      expect(new Set(all.map((name) => name.split(".")[0])).size).toBe(1);
      if (new Set(all.map((name) => name.split(".")[1])).size > 1) mixed++;
    }
    // Half of the draws are mixed, and the short ones of these may be of one record by chance.
    expect(mixed).toBeGreaterThan(60);
    expect(mixed).toBeLessThan(120);
  });

  test("nothing held out and nothing for research only; unless asked for", async () => {
    await using data = await tinyDataFolder();
    const { tokenizer } = await tinyText();
    const sampler = await EpisodeSampler.open(await options(data.path));
    const sources = new Set<string>();
    for (let index = 0; index < 600; index++) {
      const episode = sampler.at(index);
      sources.add(episode.source);
      const text = tokenizer.decode([...episode.steps.flat(), ...episode.input, ...episode.target]);
      expect(text).not.toMatch(/ (test|dev) \d/);
      for (const user of HELD_OUT.users) expect(text).not.toMatch(new RegExp(`${user} `));
      expect(text).not.toContain("held out");
    }
    expect([...sources].sort()).toEqual(["books", "colour", "open", "size", "taste", "undivided"]);
    const research = await EpisodeSampler.open(await options(data.path, { includeResearchOnly: true }));
    const names = research.sources.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(["dailydialog", "paid", "movielens_like"]));
    for (const task of [...HELD_OUT.tasks, "unlisted"]) expect(names).not.toContain(task);
  });

  test("the dev split shares nothing with training", async () => {
    await using data = await tinyDataFolder();
    const sampler = await EpisodeSampler.open(await options(data.path, { split: "dev", weights: { conversation: 1 } }));
    const { tokenizer } = await tinyText();
    for (let index = 0; index < 50; index++) {
      const episode = sampler.at(index);
      if (episode.source === "open") expect(tokenizer.decode(episode.target)).toMatch(/open dev/);
    }
  });
});

describe("labels", () => {
  test("random words replace labels, and a demonstration shows the one asked for", async () => {
    await using data = await tinyDataFolder();
    const { tokenizer } = await tinyText();
    const sampler = await EpisodeSampler.open(
      await options(data.path, { weights: { icl: 1 }, only: ["colour"], randomLabels: 1 }),
    );
    for (let index = 0; index < 60; index++) {
      const { steps, target, options: candidates, optionTexts, answerIndex = -1 } = sampler.at(index);
      const answer = tokenizer.decode(target.slice(0, -1));
      expect(RANDOM_WORDS).toContain(answer);
      expect(optionTexts?.[answerIndex]).toBe(answer);
      expect(candidates?.[answerIndex]).toEqual(target.slice(0, -1));
      const shown = steps.map((step) => tokenizer.decode(step));
      expect(shown.some((text) => text.endsWith(`<|assistant|>${answer}<|end|>`))).toBe(true);
    }
  });

  test("without random words the labels are the task's", async () => {
    await using data = await tinyDataFolder();
    const { tokenizer } = await tinyText();
    const sampler = await EpisodeSampler.open(
      await options(data.path, { weights: { icl: 1 }, only: ["colour"], randomLabels: 0 }),
    );
    for (let index = 0; index < 30; index++) {
      expect(["red", "green", "blue"]).toContain(tokenizer.decode(sampler.at(index).target.slice(0, -1)));
    }
  });
});

test("what cannot be sampled is refused", async () => {
  await using data = await tinyDataFolder();
  const invalid = { code: "OPTION_INVALID" };
  await expect(EpisodeSampler.open(await options(data.path, { maxSteps: 0 }))).rejects.toMatchObject(invalid);
  await expect(EpisodeSampler.open(await options(data.path, { randomLabels: 2 }))).rejects.toMatchObject(invalid);
  const missing = await options(data.path, { only: ["open"], weights: { conversation: 1, stream: 1 } });
  await expect(EpisodeSampler.open(missing)).rejects.toMatchObject(invalid);
  const sampler = await EpisodeSampler.open(await options(data.path, { maxTokens: 3 }));
  expect(() => sampler.at(0)).toThrow(expect.objectContaining(invalid));
  const abort = new AbortController();
  abort.abort();
  const aborted = await options(data.path, { signal: abort.signal });
  await expect(EpisodeSampler.open(aborted)).rejects.toMatchObject({ code: "ABORTED" });
});

describe("random choices", () => {
  test("samples are without repetition, and every place is as likely", () => {
    const items = [0, 1, 2, 3, 4];
    const counts = items.map(() => 0);
    for (let seed = 0; seed < 2000; seed++) {
      const drawn = new SeededRandom("test", seed).sample(items, 2);
      expect(new Set(drawn).size).toBe(2);
      for (const item of drawn) counts[item]++;
    }
    for (const count of counts) expect(Math.abs(count - 800)).toBeLessThan(100);
    expect(new SeededRandom(1).shuffle(items).sort()).toEqual(items);
  });

  test("weights", () => {
    const counts = [0, 0, 0];
    for (let seed = 0; seed < 2000; seed++) counts[new SeededRandom("weights", seed).weighted([1, 3, 0])]++;
    expect(counts[2]).toBe(0);
    expect(Math.abs(counts[1] - 1500)).toBeLessThan(100);
  });
});
