/** @file Data on disk: one file, or a folder in the layout of Hugging Face datasets with a file or folder per split. */
import { readdir, stat } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { PrecisError } from "../errors.js";
import { readJsonLines } from "./readers/jsonl.js";
import { splitOf, type Split } from "./records.js";

const DATA_FILE = /\.(jsonl|ndjson|jsonl\.gz|ndjson\.gz|parquet)$/i;

/** A file of records, and the split that its name tells. */
export interface DataFile {
  file: string;
  split: Split | undefined;
}

/**
 * The values in a JSON Lines or Parquet file.
 * @throws FILE_NOT_FOUND, FILE_INVALID
 */
export async function* readRecords(file: string): AsyncGenerator<unknown, void, void> {
  if (!file.toLowerCase().endsWith(".parquet")) return yield* readJsonLines(file);
  // Loaded when needed: most data comes as JSON Lines.
  const { readParquet } = await import("./readers/parquet.js");
  yield* readParquet(file);
}

/** Whether `path` is a folder. */
export async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() === true;
}

/**
 * The data files at `path`: itself, or those in the folder and below, by name. The split of a file is told by a part of
 * its path, as in `train-00000-of-00002.parquet`, `validation.jsonl` or `test/part.parquet`; a card
 * (`README.md`, `dataset_infos.json`) is not needed.
 * @throws FILE_NOT_FOUND if nothing is there
 */
export async function listDataFiles(path: string): Promise<DataFile[]> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) {
    throw new PrecisError("FILE_NOT_FOUND", `There is no ${path}.`, { value: path, nextStep: "Check the path." });
  }
  if (!found.isDirectory()) return [{ file: path, split: splitInName(basename(path)) }];
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile() && DATA_FILE.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  if (files.length > 0) return files.map((file) => ({ file, split: splitInName(relative(path, file)) }));
  throw new PrecisError("FILE_NOT_FOUND", `There are no data files in ${path}.`, {
    value: path,
    nextStep: "Put .jsonl, .jsonl.gz or .parquet files there.",
  });
}

/** Name of a data file without its extension. */
export function sourceName(file: string): string {
  return basename(file).replace(DATA_FILE, "");
}

function splitInName(path: string): Split | undefined {
  const words = path.replace(DATA_FILE, "").split(/[^A-Za-z]+/);
  return words.map(splitOf).find((split) => split !== undefined);
}
