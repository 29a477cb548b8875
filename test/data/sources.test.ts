/** @file What enters training and what is held out: official splits, lists of names, licences. */
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { listSources, loadSource, type Source, type SourceFilter } from "#precis/data/sources.js";
import { isResearchOnly } from "#precis/data/licences.js";
import { temporaryFolder, writeFiles } from "../weights/folders.js";
import { dialogue, HELD_OUT, jsonLines, tinyDataFolder } from "./tiny-data.js";

async function source(path: string, name: string): Promise<Source> {
  const found = (await listSources(path, { includeResearchOnly: true })).find((candidate) => candidate.name === name);
  if (found === undefined) throw new Error(`There is no source ${name}`);
  return found;
}

async function ids(path: string, name: string, split: "train" | "dev" | "test"): Promise<string[]> {
  return (await loadSource(await source(path, name), split)).records.map(({ id }) => id);
}

describe("the known layout", () => {
  test("sources for research only are left out unless asked for", async () => {
    await using data = await tinyDataFolder();
    const names = (await listSources(data.path)).map(({ name }) => name);
    const all = (await listSources(data.path, { includeResearchOnly: true })).map(({ name }) => name);
    expect(names.sort()).toEqual(["books", "colour", "open", "parity", "size", "taste", "undivided", "vowel"]);
    expect(all.filter((name) => !names.includes(name)).sort()).toEqual(["dailydialog", "movielens_like", "paid"]);
  });

  test("named sources are left out, or all but them", async () => {
    await using data = await tinyDataFolder();
    const names = async (filter: SourceFilter): Promise<string[]> =>
      (await listSources(data.path, filter)).map(({ name }) => name).sort();
    expect(await names({ without: ["open", "taste"] })).toEqual([
      "books",
      "colour",
      "parity",
      "size",
      "undivided",
      "vowel",
    ]);
    expect(await names({ only: ["open", "size"], without: ["open"] })).toEqual(["size"]);
    await expect(names({ without: ["opne"] })).rejects.toMatchObject({ code: "OPTION_INVALID", value: "opne" });
  });

  test("tasks on no list are left out", async () => {
    await using data = await tinyDataFolder();
    const names = (await listSources(data.path, { includeResearchOnly: true })).map(({ name }) => name);
    expect(names).not.toContain("unlisted");
  });

  test("official splits of dialogues", async () => {
    await using data = await tinyDataFolder();
    for (const [split, count] of [
      ["train", 20],
      ["dev", 4],
      ["test", 4],
    ] as const) {
      const found = await ids(data.path, "open", split);
      expect(found).toHaveLength(count);
      expect(found.every((id) => id.startsWith(split))).toBe(true);
    }
  });

  test("without a dev part a few training records serve as one, and never as both", async () => {
    await using data = await tinyDataFolder();
    const train = await ids(data.path, "undivided", "train");
    const dev = await ids(data.path, "undivided", "dev");
    expect(train.length + dev.length).toBe(200);
    expect(dev.length).toBeGreaterThan(0);
    expect(dev.length).toBeLessThan(20);
    expect(train.filter((id) => dev.includes(id))).toEqual([]);
    expect(await ids(data.path, "undivided", "test")).toEqual([]);
  });

  test("held-out tasks have test records only", async () => {
    await using data = await tinyDataFolder();
    for (const task of HELD_OUT.tasks) {
      expect(await ids(data.path, task, "train")).toEqual([]);
      expect(await ids(data.path, task, "dev")).toEqual([]);
      expect(await ids(data.path, task, "test")).toHaveLength(60);
    }
    expect(await ids(data.path, "colour", "test")).toEqual([]);
  });

  test("held-out users and books", async () => {
    await using data = await tinyDataFolder();
    const usersOf = async (split: "train" | "dev" | "test"): Promise<string[]> => {
      const { records } = await loadSource((await source(data.path, "taste")) as Source<"personal">, split);
      return [...new Set(records.map(({ user }) => user))];
    };
    expect((await usersOf("test")).sort()).toEqual(HELD_OUT.users);
    const train = await usersOf("train");
    const dev = await usersOf("dev");
    expect([...train, ...dev]).toHaveLength(18);
    // A user's profile must not be in both, whatever the record.
    expect(train.filter((user) => dev.includes(user))).toEqual([]);
    const books = (await source(data.path, "books")) as Source<"stream">;
    expect((await loadSource(books, "test")).records.map(({ title }) => title)).toEqual([HELD_OUT.book]);
    const rest = [...(await loadSource(books, "train")).records, ...(await loadSource(books, "dev")).records];
    expect(rest.map(({ title }) => title).sort()).toEqual(["One", "Two"]);
  });
});

describe("other data", () => {
  test("a folder with a file per split, of messages", async () => {
    await using folder = await temporaryFolder();
    const record = (id: string): unknown => ({ id, messages: [{ role: "user", content: "hi" }] });
    await writeFiles(folder.path, {
      "mine/train.jsonl": jsonLines([record("a"), record("b")]),
      "mine/validation.jsonl": jsonLines([record("c")]),
      "mine/test.jsonl": jsonLines([record("d")]),
    });
    const path = join(folder.path, "mine");
    const [found] = await listSources(path);
    expect(found).toMatchObject({ name: "mine", setting: "conversation" });
    expect(await ids(path, "mine", "train")).toEqual(["a", "b"]);
    expect(await ids(path, "mine", "dev")).toEqual(["c"]);
    expect(await ids(path, "mine", "test")).toEqual(["d"]);
  });

  test("one file; the records' own split comes before the file's name", async () => {
    await using folder = await temporaryFolder();
    const file = join(folder.path, "train.jsonl");
    await writeFiles(folder.path, {
      "train.jsonl": jsonLines([
        dialogue("x", 1, 4, "train"),
        dialogue("x", 2, 4, "valid"),
        dialogue("x", 3, 4, "test"),
      ]),
    });
    expect(await ids(file, "train", "train")).toEqual(["train-1"]);
    expect(await ids(file, "train", "dev")).toEqual(["valid-2"]);
    expect(await ids(file, "train", "test")).toEqual(["test-3"]);
  });

  test("records that fit nothing are refused by file and number", async () => {
    await using folder = await temporaryFolder();
    await writeFiles(folder.path, {
      "odd.jsonl": jsonLines([{ question: "?" }]),
      "mixed.jsonl": jsonLines([{ input: "a", output: "b" }, { input: "a" }]),
    });
    await expect(listSources(join(folder.path, "odd.jsonl"))).rejects.toMatchObject({ code: "FILE_INVALID" });
    await expect(ids(join(folder.path, "mixed.jsonl"), "mixed", "train")).rejects.toMatchObject({
      code: "FILE_INVALID",
      message: expect.stringContaining("Record 2"),
    });
  });
});

test.each([
  ["dailydialog", "", true],
  ["anything", "CC BY-NC-SA 4.0", true],
  ["anything", "academic research use only", true],
  ["anything", "MIT (CommonsenseQA)", false],
  ["sgd", "CC BY-SA 4.0", false],
])("licence of %s (%s)", (name, licence, expected) => {
  expect(isResearchOnly(name, licence)).toBe(expected);
});
