/** @file Finished parts of a long evaluation on disk, so that one that was cut off goes on where it was. */
import { appendFileSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { isRecord, isSystemError, writeFileAtomic } from "../weights/files.js";

/** A finished part, and the working time that it took. */
export interface JournalEntry {
  value: unknown;
  seconds: number;
}

/** Finished parts by key. */
export class Journal {
  readonly #file: string;
  readonly #entries: Map<string, JournalEntry>;

  private constructor(file: string, entries: Map<string, JournalEntry>) {
    this.#file = file;
    this.#entries = entries;
  }

  /**
   * Opens the journal in `file`; what is there of anything but `subject` is dropped.
   * @param subject everything that decides the values, as text without line breaks
   */
  static async open(file: string, subject: string): Promise<Journal> {
    const text = await readFile(file, "utf8").catch((error: unknown) => {
      if (isSystemError(error, "ENOENT")) return "";
      throw error;
    });
    const [head, ...lines] = text.split("\n");
    const entries = new Map<string, JournalEntry>();
    if (head === subject) for (const line of lines) readLine(line, entries);
    const kept = [...entries].map(([key, entry]) => lineOf(key, entry));
    // Written anew, so that nothing is appended to a line that was cut off.
    await writeFileAtomic(file, [subject, ...kept, ""].join("\n"));
    return new Journal(file, entries);
  }

  get(key: string): JournalEntry | undefined {
    return this.#entries.get(key);
  }

  /** Adds a part; it is on disk when this returns. The value must be what JSON can hold. */
  put(key: string, entry: JournalEntry): void {
    this.#entries.set(key, entry);
    appendFileSync(this.#file, `${lineOf(key, entry)}\n`);
  }

  /** Removes the file, once everything is done. */
  async finish(): Promise<void> {
    await rm(this.#file, { force: true });
  }
}

function lineOf(key: string, { value, seconds }: JournalEntry): string {
  return JSON.stringify({ key, value, seconds });
}

/** Takes in a line, unless it was cut off. */
function readLine(line: string, entries: Map<string, JournalEntry>): void {
  try {
    const json: unknown = JSON.parse(line);
    if (!isRecord(json) || typeof json["key"] !== "string" || typeof json["seconds"] !== "number") return;
    entries.set(json["key"], { value: json["value"], seconds: json["seconds"] });
  } catch {
    // The process ended in the middle of it.
  }
}

/** The value of a finished part, or else that of `work`, which is then noted; with the working time of either. */
export async function journaled<Value>(
  journal: Journal | undefined,
  key: string,
  work: () => Promise<Value>,
): Promise<{ value: Value; seconds: number }> {
  const found = journal?.get(key);
  if (found !== undefined) return found as { value: Value; seconds: number };
  const startedAt = performance.now();
  const value = await work();
  const seconds = (performance.now() - startedAt) / 1000;
  journal?.put(key, { value, seconds });
  return { value, seconds };
}
