/** @file A tiny data folder in the layout that sources are read from, made of nothing but numbers and letters. */
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { CHAT_TEMPLATE, writeByteTokenizer } from "../reference/byte-tokenizer.js";
import { temporaryFolder, writeFiles } from "../weights/folders.js";
import { ChatPieces } from "#precis/data/chat-pieces.js";
import { ChatTemplate } from "#precis/text/chat-template.js";
import { Tokenizer } from "#precis/text/tokenizer.js";

/** Records as the text of a JSON Lines file. */
export function jsonLines(records: readonly unknown[]): string {
  return records.map((record) => `${JSON.stringify(record)}\n`).join("");
}

/** A dialogue of `turns` turns whose text names its source, number and turn. */
export function dialogue(source: string, number: number, turns: number, split: string): Record<string, unknown> {
  return {
    source,
    split,
    id: `${split}-${number}`,
    turns: Array.from({ length: turns }, (_, turn) => ({
      role: turn % 2 === 0 ? "user" : "assistant",
      text: `${source} ${split} ${number}.${turn}`,
    })),
  };
}

function dialogues(source: string, turns = 8): Record<string, unknown>[] {
  return ["train", "dev", "test"].flatMap((split) =>
    Array.from({ length: split === "train" ? 20 : 4 }, (_, number) => dialogue(source, number, turns, split)),
  );
}

function examples(task: string, labels: readonly string[], count = 60): Record<string, unknown>[] {
  return Array.from({ length: count }, (_, number) => ({
    input: `${task} ${number}`,
    output: labels[number % labels.length],
    options: labels,
  }));
}

function profiles(source: string, options: readonly string[]): Record<string, unknown>[] {
  return Array.from({ length: 60 }, (_, number) => ({
    user: `u${number % 20}`,
    profile: Array.from({ length: 6 }, (__, entry) => ({
      input: `${source} u${number % 20} ${entry}`,
      output: options[(number + entry) % options.length],
    })),
    query: { input: `${source} u${number % 20} asks ${number}`, output: options[number % options.length] },
    options,
  }));
}

/** What is held out, by the lists in the folder. */
export const HELD_OUT = { users: ["u3", "u7"], book: "Held Out", tasks: ["parity", "vowel"] };

/** Writes the folder. */
export async function writeTinyData(folder: string): Promise<void> {
  const books = ["One", "Two", HELD_OUT.book].map((title) => ({
    title,
    text: Array.from({ length: 400 }, (_, word) => `${title.toLowerCase()}${word}`).join(" "),
  }));
  await writeFiles(folder, {
    "dialogue/open.jsonl.gz": gzipSync(jsonLines(dialogues("open"))),
    "dialogue/dailydialog.jsonl": jsonLines(dialogues("dailydialog")),
    "dialogue/undivided.jsonl": jsonLines(
      Array.from({ length: 200 }, (_, number) => dialogue("undivided", number, 6, "train")),
    ),
    "icl/tasks.json": {
      meta_train: ["colour", "size", "paid"],
      meta_test: HELD_OUT.tasks,
      tasks: [{ task: "paid", licence: "CC BY-NC 4.0" }],
    },
    "icl/colour.jsonl": jsonLines(examples("colour", ["red", "green", "blue"])),
    "icl/size.jsonl": jsonLines(examples("size", ["big", "small"])),
    "icl/paid.jsonl": jsonLines(examples("paid", ["yes", "no"])),
    "icl/parity.jsonl": jsonLines(examples("parity", ["odd", "even"])),
    "icl/vowel.jsonl.gz": gzipSync(jsonLines(examples("vowel", ["yes", "no"]))),
    "icl/unlisted.jsonl": jsonLines(examples("unlisted", ["yes", "no"])),
    "personal/split.json": { test: HELD_OUT.users },
    "personal/taste.jsonl": jsonLines(profiles("taste", ["1", "2", "3"])),
    "personal/movielens_like.jsonl": jsonLines(profiles("movies", ["like", "dislike"])),
    "books/split.json": { test: [HELD_OUT.book] },
    "books/books.jsonl": jsonLines(books),
  });
}

/** A tokenizer of bytes, its chat template, and the pieces that both make. */
export interface TinyText {
  tokenizer: Tokenizer;
  template: ChatTemplate;
  pieces: ChatPieces;
}

/** Text tools with one token per byte, under the usual template or another. */
export async function tinyText(source: string = CHAT_TEMPLATE): Promise<TinyText> {
  await using folder = await temporaryFolder();
  writeByteTokenizer(folder.path, 320);
  const tokenizer = await Tokenizer.load(folder.path);
  const template = new ChatTemplate(source, { bos_token: "<|bos|>", eos_token: "<|end|>" });
  return { tokenizer, template, pieces: new ChatPieces(tokenizer, template) };
}

/** A folder with {@link writeTinyData}. */
export async function tinyDataFolder(): Promise<{ path: string } & AsyncDisposable> {
  const folder = await temporaryFolder();
  const path = join(folder.path, "data");
  await writeTinyData(path);
  return { path, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}
