/** @file File helpers of the weights folder: JSON objects, atomic writes, the cache folder, cancellation. */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { PrecisError } from "../errors.js";

/** Whether `error` is the system error of this code, such as `ENOENT`. */
export function isSystemError(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}

/**
 * The JSON object in `file`.
 * @throws FILE_NOT_FOUND with `nextStep` if there is no such file; FILE_INVALID if it does not hold a JSON object
 */
export async function readJsonObject(file: string, nextStep: string): Promise<Record<string, unknown>> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) {
      throw new PrecisError("FILE_NOT_FOUND", `There is no file ${file}.`, { nextStep, value: file });
    }
    throw PrecisError.from(error, "FILE_INVALID", `Cannot read ${file}`);
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw PrecisError.from(error, "FILE_INVALID", `${file} is not valid JSON`, "Repair it or download it again.");
  }
  if (!isRecord(json)) {
    const found = Array.isArray(json) ? "an array" : json === null ? "null" : `a ${typeof json}`;
    throw new PrecisError("FILE_INVALID", `${file} must hold a JSON object but holds ${found}.`, {
      nextStep: "Download it again.",
      value: file,
    });
  }
  return json;
}

/** Whether `value` is an object that is neither null nor an array. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** JSON text with sorted keys, so that equal values give equal text. Keys in `ignored` are left out at every depth. */
export function canonicalJson(value: unknown, ignored: ReadonlySet<string> = new Set()): string {
  return JSON.stringify(value, (_key, inner: unknown) => {
    if (!isRecord(inner)) return inner;
    const kept = Object.keys(inner).filter((key) => !ignored.has(key));
    return Object.fromEntries(kept.sort().map((key) => [key, inner[key]]));
  });
}

/** A name beside `file` that no other writer uses, to be renamed to `file` when complete. */
export function temporaryName(file: string): string {
  return `${file}.${process.pid}-${randomBytes(4).toString("hex")}.tmp`;
}

/** Writes `data` to `file` so that a reader sees the old content or the new, never a part. Creates the folder. */
export async function writeFileAtomic(file: string, data: Uint8Array | string): Promise<void> {
  const temporary = temporaryName(file);
  try {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(temporary, data, { flag: "wx", flush: true });
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw PrecisError.from(error, "FILE_INVALID", `Cannot write ${file}`, "Check its folder and the free disk space.");
  }
}

/** The root of everything Precis caches: `$PRECIS_CACHE`, else `$XDG_CACHE_HOME/precis`, else `~/.cache/precis`. */
export function cacheDirectory(): string {
  const { PRECIS_CACHE: own, XDG_CACHE_HOME: shared } = process.env;
  if (own !== undefined && own !== "") return resolve(own);
  return join(shared !== undefined && shared !== "" ? resolve(shared) : join(homedir(), ".cache"), "precis");
}

/** Throws ABORTED if `signal` has fired. */
export function throwIfAborted(signal: AbortSignal | undefined, work: string): void {
  if (signal?.aborted === true) throw new PrecisError("ABORTED", `${work} was aborted.`, { cause: signal.reason });
}
