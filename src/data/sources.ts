/**
 * @file The data of a user as sources per setting. Two layouts are known: a folder with `dialogue/`, `icl/`, `personal/`,
 * `books/` and `docs/`, whose split files say what is held out; and any file or dataset folder, told by its records.
 */
import { join } from "node:path";
import { PrecisError } from "../errors.js";
import { isRecord, readJsonObject } from "../weights/files.js";
import { isFolder, listDataFiles, readRecords, sourceName, type DataFile } from "./dataset.js";
import type { Setting } from "./episode.js";
import { isResearchOnly } from "./licences.js";
import { stableHash } from "./random.js";
import { parseRecord, settingOf, type RecordOf, type Split } from "./records.js";

/** Where a setting's data lies in the known layout. */
const FOLDERS: readonly { folder: string; setting: Setting }[] = [
  { folder: "dialogue", setting: "conversation" },
  { folder: "icl", setting: "icl" },
  { folder: "personal", setting: "personal" },
  { folder: "books", setting: "stream" },
  { folder: "docs", setting: "stream" },
];

/** Where a source has no dev part of its own, one in this many of its training records is held back for that. */
const DEV_SHARE = 40;

/** One source of one setting. */
export interface Source<Kind extends Setting = Setting> {
  name: string;
  setting: Kind;
  /** Files of the source, with the split that their names tell. */
  files: readonly DataFile[];
  /** The split of all its records, where the data's own lists decide that. */
  split: Split | undefined;
  /** Names that are held out of training: users, or titles. */
  heldOut: ReadonlySet<string>;
  researchOnly: boolean;
}

/** A source's records of one split, in the order of the files. */
export interface LoadedSource<Kind extends Setting = Setting> {
  name: string;
  setting: Kind;
  records: readonly RecordOf[Kind][];
}

/** Which sources to take. */
export interface SourceFilter {
  /** Also those that may only be used for research. Default false. */
  includeResearchOnly?: boolean;
  /** Only sources of these names. */
  only?: readonly string[];
  /** No sources of these names. */
  without?: readonly string[];
}

/**
 * The sources at `path`.
 * @throws FILE_NOT_FOUND, FILE_INVALID; OPTION_INVALID if a source to leave out is not there
 */
export async function listSources(path: string, filter: SourceFilter = {}): Promise<Source[]> {
  const present = [];
  for (const entry of FOLDERS) if (await isFolder(join(path, entry.folder))) present.push(entry);
  const sources: Source[] = [];
  for (const { folder, setting } of present) sources.push(...(await listKnown(join(path, folder), setting)));
  if (present.length === 0) sources.push(...(await listOther(path)));
  const { includeResearchOnly = false, only, without = [] } = filter;
  // A name that is misspelled would let in what was to be left out.
  const unknown = without.find((name) => sources.every((source) => source.name !== name));
  if (unknown !== undefined) {
    throw new PrecisError("OPTION_INVALID", `There is no source "${unknown}" to leave out.`, {
      value: unknown,
      nextStep: `Sources: ${sources.map(({ name }) => name).join(", ")}.`,
    });
  }
  return sources.filter(
    ({ name, researchOnly }) =>
      (includeResearchOnly || !researchOnly) && only?.includes(name) !== false && !without.includes(name),
  );
}

async function listKnown(folder: string, setting: Setting): Promise<Source[]> {
  const files = await listDataFiles(folder);
  const tasks = setting === "icl" ? await readTasks(join(folder, "tasks.json")) : undefined;
  const heldOut = setting === "icl" ? new Set<string>() : await readHeldOut(join(folder, "split.json"));
  return files.flatMap(({ file }) => {
    const name = sourceName(file);
    const task = tasks?.get(name);
    // A task on no list could be a held-out one, so it is left out.
    if (tasks !== undefined && task?.split === undefined) return [];
    const researchOnly = isResearchOnly(name, task?.licence);
    // These names are those of sources, and a word such as "test" in them means nothing.
    return [{ name, setting, files: [{ file, split: undefined }], split: task?.split, heldOut, researchOnly }];
  });
}

async function listOther(path: string): Promise<Source[]> {
  const groups = new Map<string, { setting: Setting; files: DataFile[] }>();
  const files = await listDataFiles(path);
  for (const entry of files) {
    const setting = settingOf(await firstRecord(entry.file));
    if (setting === undefined) {
      throw new PrecisError("FILE_INVALID", `The records of ${entry.file} are of no known kind.`, {
        value: entry.file,
        nextStep: 'Give them "turns" or "messages", "input" and "output", "profile" and "query", or "text".',
      });
    }
    const group = groups.get(setting) ?? { setting, files: [] };
    group.files.push(entry);
    groups.set(setting, group);
  }
  const name = sourceName(path);
  return [...groups.values()].map((group) => ({
    ...group,
    name,
    split: undefined,
    heldOut: new Set(),
    researchOnly: isResearchOnly(name),
  }));
}

async function firstRecord(file: string): Promise<unknown> {
  for await (const record of readRecords(file)) return record;
  return undefined;
}

/** The split of every task that the list of tasks names. */
async function readTasks(
  file: string,
): Promise<Map<string, { split: Split | undefined; licence: string | undefined }> | undefined> {
  const json = await readOptionalObject(file);
  if (json === undefined) return undefined;
  const names = (key: string): string[] => (Array.isArray(json[key]) ? json[key].map(String) : []);
  const licences = new Map<string, string>();
  for (const task of Array.isArray(json["tasks"]) ? json["tasks"] : []) {
    if (isRecord(task)) licences.set(String(task["task"]), String(task["licence"] ?? ""));
  }
  const splits: [string, Split][] = [
    ...names("meta_train").map((name): [string, Split] => [name, "train"]),
    // Last, so that a task on both lists stays out of training.
    ...names("meta_test").map((name): [string, Split] => [name, "test"]),
  ];
  return new Map(splits.map(([name, split]) => [name, { split, licence: licences.get(name) }]));
}

async function readHeldOut(file: string): Promise<ReadonlySet<string>> {
  const test = (await readOptionalObject(file))?.["test"];
  return new Set(Array.isArray(test) ? test.map(String) : []);
}

async function readOptionalObject(file: string): Promise<Record<string, unknown> | undefined> {
  try {
    return await readJsonObject(file, "");
  } catch (error) {
    if (error instanceof PrecisError && error.code === "FILE_NOT_FOUND") return undefined;
    throw error;
  }
}

/** What a record is held out by, if it is on the source's list. */
function heldOutName<Kind extends Setting>(setting: Kind, record: RecordOf[Kind]): string | undefined {
  if (setting === "personal") return (record as RecordOf["personal"]).user;
  return setting === "stream" ? (record as RecordOf["stream"]).title : undefined;
}

/**
 * The records of one split of a source. The source's own lists decide first, then each record's `split`, then the
 * file's name; what nothing is said of is for training. Without dev records, a few training records serve as such, and
 * never as both: they are chosen by a hash of the record's id, or of the user.
 */
export async function loadSource<Kind extends Setting>(
  source: Source<Kind>,
  split: Split,
): Promise<LoadedSource<Kind>> {
  const parts: Record<Split, RecordOf[Kind][]> = { train: [], dev: [], test: [] };
  for (const { file, split: fileSplit } of source.files) {
    let record = 0;
    for await (const value of readRecords(file)) {
      record++;
      const parsed = parseRecord(source.setting, value, { file, record });
      const name = heldOutName(source.setting, parsed);
      const heldOut = name !== undefined && source.heldOut.has(name);
      parts[heldOut ? "test" : (source.split ?? parsed.split ?? fileSplit ?? "train")].push(parsed);
    }
  }
  let chosen = parts[split];
  if (parts.dev.length === 0 && split !== "test") {
    const isDev = (record: RecordOf[Kind]): boolean =>
      stableHash(source.name, heldOutName(source.setting, record) ?? record.id) % DEV_SHARE === 0;
    chosen = parts.train.filter((record) => isDev(record) === (split === "dev"));
  }
  return { name: source.name, setting: source.setting, records: chosen };
}
