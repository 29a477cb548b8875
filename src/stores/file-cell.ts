/**
 * @file A variable on disk that several processes may compare and set. Its value is the name of the one file in a
 * folder of its own. Renaming that file changes the value only if nobody else did, and renaming a prepared folder to
 * the cell's place sets a value only if there is none: a folder that holds a file is not replaced. No lock is needed,
 * so a process that dies leaves none behind.
 */
import { randomUUID } from "node:crypto";
import { mkdir, open, readdir, rename, rm, rmdir, unlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

/** Codes of system calls that found a folder with something in it; which one depends on the system. */
const OCCUPIED: readonly string[] = ["ENOTEMPTY", "EEXIST", "EPERM", "EBUSY"];

/** The code of a failed system call, such as ENOENT. */
export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}

/** What `work` returns, or undefined if it fails with one of these codes. */
export async function unless<T>(codes: readonly string[], work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (codes.includes(codeOf(error) ?? "")) return undefined;
    throw error;
  }
}

/** Makes what was created, renamed or deleted in a folder outlast a loss of power. */
export async function syncFolder(folder: string): Promise<void> {
  // Windows opens no folders; its file systems keep an order of such changes themselves.
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** A cell; see the top of the file. Values are file names. */
export class FileCell {
  readonly #folder: string;
  readonly #scratch: string;
  readonly #durable: boolean;

  /**
   * @param folder the cell's own; the folder around it exists
   * @param options.scratch an existing folder of the same file system, for preparing
   * @param options.durable whether changes outlast a loss of power; they outlast a process in any case
   */
  constructor(folder: string, { scratch, durable }: { scratch: string; durable: boolean }) {
    this.#folder = folder;
    this.#scratch = scratch;
    this.#durable = durable;
  }

  /** The value, or undefined. */
  async read(): Promise<string | undefined> {
    // Reading a folder of one file that is being renamed may see neither name on some file systems; not twice.
    for (let attempt = 0; attempt < 3; attempt++) {
      const names = await unless(["ENOENT"], readdir(this.#folder));
      if (names === undefined) return undefined;
      if (names[0] !== undefined) return names[0];
    }
    return undefined;
  }

  /** Sets a first value. @returns false if there is one already */
  async create(value: string): Promise<boolean> {
    const prepared = join(this.#scratch, randomUUID());
    await mkdir(prepared);
    await writeFile(join(prepared, value), "");
    if (this.#durable) await syncFolder(prepared);
    if (!(await this.#move(prepared))) {
      await rm(prepared, { recursive: true });
      return false;
    }
    if (this.#durable) await syncFolder(dirname(this.#folder));
    return true;
  }

  /** Changes the value from `old` to `value`. @returns false if it was not `old` */
  async replace(old: string, value: string): Promise<boolean> {
    const done = rename(join(this.#folder, old), join(this.#folder, value)).then(() => true);
    if ((await unless(["ENOENT"], done)) !== true) return false;
    if (this.#durable) await syncFolder(this.#folder);
    return true;
  }

  /** Takes the value away. @returns false if it was not `old` */
  async remove(old: string): Promise<boolean> {
    const done = unlink(join(this.#folder, old)).then(() => true);
    if ((await unless(["ENOENT"], done)) !== true) return false;
    if (this.#durable) await unless(["ENOENT"], syncFolder(this.#folder));
    // The empty folder means the same as none. It stays if somebody sets a new value just now.
    await unless(["ENOENT", ...OCCUPIED], rmdir(this.#folder));
    return true;
  }

  /** Moves a prepared folder to the place of the cell. @returns false if there is one with a value */
  async #move(prepared: string): Promise<boolean> {
    for (let attempt = 1; ; attempt++) {
      try {
        await rename(prepared, this.#folder);
        return true;
      } catch (error) {
        if (!OCCUPIED.includes(codeOf(error) ?? "") || attempt === 10) throw error;
      }
      if ((await this.read()) !== undefined) return false;
      // Empty: left by a process that died, or being deleted; on Windows it is in the way.
      await unless(["ENOENT", ...OCCUPIED], rmdir(this.#folder));
    }
  }
}
