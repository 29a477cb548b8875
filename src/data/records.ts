/** @file The shapes of records, and how what a file holds becomes one of them. */
import { PrecisError } from "../errors.js";
import type { ChatMessage } from "../text/chat-template.js";
import { isRecord } from "../weights/files.js";
import type { Setting } from "./episode.js";

/** Which part of a source a record belongs to. */
export type Split = "train" | "dev" | "test";

/** An input with the output that belongs to it. */
export interface Demonstration {
  input: string;
  output: string;
}

/** A conversation. */
export interface DialogueRecord {
  id: string;
  split: Split | undefined;
  turns: readonly ChatMessage[];
}

/** An example of a task. */
export interface TaskRecord extends Demonstration {
  id: string;
  split: Split | undefined;
  /** Name of the task, if the file has several. */
  task: string | undefined;
  /** Candidate outputs; empty if any text may be the answer. */
  options: readonly string[];
}

/** What is known of a user, and a question that it helps with. */
export interface ProfileRecord {
  id: string;
  split: Split | undefined;
  user: string;
  profile: readonly Demonstration[];
  query: Demonstration;
  /** Candidate outputs of the query; empty if any text may be the answer. */
  options: readonly string[];
}

/** A long text. */
export interface TextRecord {
  id: string;
  split: Split | undefined;
  title: string;
  text: string;
}

/** The record of each setting. */
export interface RecordOf {
  conversation: DialogueRecord;
  icl: TaskRecord;
  personal: ProfileRecord;
  stream: TextRecord;
}

/** Where a value was read, for messages. */
export interface Origin {
  file: string;
  /** Counted from 1. */
  record: number;
}

const SPLIT_NAMES: Readonly<Record<string, Split>> = {
  train: "train",
  training: "train",
  dev: "dev",
  valid: "dev",
  validation: "dev",
  val: "dev",
  test: "test",
  eval: "test",
};

/** The split that a name stands for, if any. */
export function splitOf(name: unknown): Split | undefined {
  return typeof name === "string" && Object.hasOwn(SPLIT_NAMES, name.toLowerCase())
    ? SPLIT_NAMES[name.toLowerCase()]
    : undefined;
}

const EXPECTED: Record<Setting, string> = {
  conversation: '{"turns": [{"role", "text"}, …]} or {"messages": [{"role", "content"}, …]}',
  icl: '{"input", "output", "options": […]}',
  personal: '{"user", "profile": [{"input", "output"}, …], "query": {"input", "output"}, "options": […]}',
  stream: '{"text"}',
};

function unfit(setting: Setting, { file, record }: Origin): PrecisError {
  return new PrecisError("FILE_INVALID", `Record ${record} of ${file} does not fit the setting ${setting}.`, {
    value: file,
    nextStep: `Write records as ${EXPECTED[setting]}.`,
  });
}

/** The setting that a record's fields fit, if any. */
export function settingOf(value: unknown): Setting | undefined {
  if (!isRecord(value)) return undefined;
  if ("turns" in value || "messages" in value) return "conversation";
  if ("profile" in value && "query" in value) return "personal";
  if ("input" in value && "output" in value) return "icl";
  return "text" in value ? "stream" : undefined;
}

/**
 * A value of a file as a record of a setting.
 * @throws FILE_INVALID
 */
export function parseRecord<Kind extends Setting>(setting: Kind, value: unknown, origin: Origin): RecordOf[Kind] {
  const parsed = isRecord(value) ? PARSERS[setting](value, String(origin.record - 1)) : undefined;
  if (parsed === undefined) throw unfit(setting, origin);
  return parsed;
}

const PARSERS: {
  [Kind in Setting]: (value: Record<string, unknown>, place: string) => RecordOf[Kind] | undefined;
} = {
  conversation: (value, place) => {
    const turns = list(value["turns"] ?? value["messages"], parseTurn);
    return turns && { id: text(value["id"]) ?? place, split: splitOf(value["split"]), turns };
  },
  icl: (value, place) => {
    const demonstration = parseDemonstration(value);
    const options = list(value["options"] ?? [], text);
    if (demonstration === undefined || options === undefined) return undefined;
    const { id, split, task } = value;
    return { id: text(id) ?? place, split: splitOf(split), task: text(task), ...demonstration, options };
  },
  personal: (value, place) => {
    const profile = list(value["profile"], parseDemonstration);
    const query = parseDemonstration(value["query"]);
    const options = list(value["options"] ?? [], text);
    if (profile === undefined || query === undefined || options === undefined) return undefined;
    const id = text(value["id"]) ?? place;
    return { id, split: splitOf(value["split"]), user: text(value["user"]) ?? id, profile, query, options };
  },
  stream: (value, place) => {
    const content = text(value["text"]);
    if (content === undefined) return undefined;
    const id = text(value["id"]) ?? place;
    return { id, split: splitOf(value["split"]), title: text(value["title"]) ?? id, text: content };
  },
};

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : typeof value === "number" ? String(value) : undefined;
}

function list<Item>(value: unknown, parse: (item: unknown) => Item | undefined): Item[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const items = value.map((item) => parse(item));
  return items.includes(undefined) ? undefined : (items as Item[]);
}

function parseTurn(value: unknown): ChatMessage | undefined {
  if (!isRecord(value)) return undefined;
  const role = text(value["role"]);
  const content = text(value["text"] ?? value["content"]);
  return role === undefined || content === undefined ? undefined : { role, content };
}

function parseDemonstration(value: unknown): Demonstration | undefined {
  if (!isRecord(value)) return undefined;
  const input = text(value["input"]);
  const output = text(value["output"]);
  return input === undefined || output === undefined ? undefined : { input, output };
}
