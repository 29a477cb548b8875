/** @file Invented tasks: solvable from their demonstrations, never from memory, and made of training texts only. */
import { describe, expect, test } from "vitest";
import { SeededRandom } from "#precis/data/random.js";
import { EpisodeSampler } from "#precis/data/sample.js";
import { inventTask } from "#precis/data/settings/invented-tasks.js";
import { labelNames } from "#precis/data/settings/label-words.js";
import { materialOf, type Material } from "#precis/data/settings/material.js";
import { RANDOM_WORDS } from "#precis/data/settings/random-words.js";
import { HELD_OUT, tinyDataFolder, tinyText } from "./tiny-data.js";

const numbered = (name: string): Material => ({
  name,
  draw: (random) => `${name} says that ${random.between(0, 1e6)} is it`,
});

function invented(count: number): NonNullable<ReturnType<typeof inventTask>>[] {
  const material = ["one", "two", "three", "four"].map(numbered);
  return Array.from({ length: count }, (_, index) => inventTask(material, 8, new SeededRandom(index))).filter(
    (task) => task !== undefined,
  );
}

describe("an invented task", () => {
  test("has as many demonstrations as asked for, with random words as labels, the question's among them", () => {
    const tasks = invented(300);
    expect(tasks.length).toBeGreaterThan(200);
    for (const { demonstrations, question } of tasks) {
      expect(demonstrations).toHaveLength(8);
      for (const { output } of [...demonstrations, question]) expect(question.options).toContain(output);
      expect(new Set(question.options).size).toBe(question.options.length);
      for (const option of question.options) expect(option).toMatch(/^[A-Za-z]+( [A-Za-z]+)?$/);
      expect(demonstrations.map(({ output }) => output)).toContain(question.output);
    }
  });

  test("has familiar words as labels in some draws, words and phrases out of the texts in others", () => {
    const options = invented(300).flatMap(({ question }) => question.options);
    const familiar = options.filter((option) => RANDOM_WORDS.includes(option));
    expect(familiar.length).toBeGreaterThan(options.length / 4);
    expect(options).toContain("says");
    expect(options).toContain("says that");
    const without = labelNames(5, [], new SeededRandom(1));
    expect(without).toHaveLength(5);
    for (const name of without) expect(RANDOM_WORDS).toContain(name);
  });

  test("gives texts of one origin one label, in one episode; and another label in the next", () => {
    const labelsOfOne = new Set<string>();
    let byOrigin = 0;
    for (const { demonstrations } of invented(300)) {
      const labels = new Map<string, Set<string>>();
      for (const { input, output } of demonstrations) {
        const [, origin] = /^(\w+) says/.exec(input) ?? [];
        if (origin !== undefined) labels.set(origin, (labels.get(origin) ?? new Set()).add(output));
      }
      if (labels.size < 2) continue;
      byOrigin++;
      for (const found of labels.values()) expect(found.size).toBe(1);
      for (const label of labels.get("one") ?? []) labelsOfOne.add(label);
    }
    expect(byOrigin).toBeGreaterThan(50);
    expect(labelsOfOne.size).toBeGreaterThan(20);
  });

  test("about a key asks for one that was shown, by the words it was shown with", () => {
    const lookups = invented(300).filter(({ demonstrations }) => !demonstrations[0]?.input.includes("says"));
    expect(lookups.length).toBeGreaterThan(30);
    for (const { demonstrations, question } of lookups) {
      expect(demonstrations).toContainEqual({ input: question.input, output: question.output });
    }
  });

  test("comes to nothing where the texts do", () => {
    const barren: Material = { name: "barren", draw: () => undefined };
    const tasks = Array.from({ length: 50 }, (_, seed) => inventTask([barren, barren], 4, new SeededRandom(seed)));
    for (const task of tasks) expect(task?.demonstrations[0]?.input ?? "none").not.toBe("");
    expect(tasks).toContain(undefined);
  });
});

describe("invented tasks among training samples", () => {
  test("as many as asked for, from training texts only", async () => {
    await using data = await tinyDataFolder();
    const { tokenizer, template } = await tinyText();
    const sampler = await EpisodeSampler.open({
      dataDir: data.path,
      tokenizer,
      template,
      weights: { icl: 1 },
      inventedTasks: 0.5,
      maxTokens: 600,
    });
    let count = 0;
    for (let index = 0; index < 200; index++) {
      const { source, steps, input } = sampler.at(index);
      if (source !== "invented") continue;
      count++;
      const text = tokenizer.decode([...steps.flat(), ...input]);
      expect(text).not.toMatch(/ (test|dev) \d/);
      for (const task of HELD_OUT.tasks) expect(text).not.toContain(`${task} `);
    }
    expect(count).toBeGreaterThan(60);
    expect(count).toBeLessThan(140);
  });

  test("need texts to be made from, and a share from 0 to 1", async () => {
    await using data = await tinyDataFolder();
    const { tokenizer, template } = await tinyText();
    const given = { dataDir: data.path, tokenizer, template, weights: { icl: 1 } };
    const invalid = { code: "OPTION_INVALID" };
    await expect(EpisodeSampler.open({ ...given, inventedTasks: 1.5 })).rejects.toMatchObject(invalid);
    await expect(EpisodeSampler.open({ ...given, only: ["colour"], inventedTasks: 1 })).rejects.toMatchObject(invalid);
  });
});

test("a long text is material of its own, and gives whole sentences", () => {
  const text =
    "It was so. ".repeat(10) + "The red fox ran over the hill. A dog slept in the sun all day. ".repeat(2000);
  const record = { id: "0", split: undefined, title: "Long", text };
  const material = materialOf([{ name: "books", setting: "stream", records: [record] }]);
  expect(material.map(({ name }) => name)).toEqual(["books", "Long"]);
  for (let seed = 0; seed < 20; seed++) {
    expect(["The red fox ran over the hill.", "A dog slept in the sun all day.", "It was so."]).toContain(
      material[1]?.draw(new SeededRandom(seed)),
    );
  }
});
